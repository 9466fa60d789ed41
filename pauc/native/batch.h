// The batch as the arithmetic wants it: without rows to ignore, with all columns.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "rows.h"

namespace pauc {

template <typename T>
std::vector<T> selected(const T* values, Size width, const std::vector<int32_t>& rows) {
    std::vector<T> result;
    result.reserve(rows.size() * width);
    for (int32_t row : rows)
        result.insert(result.end(), values + row * width, values + (row + 1) * width);
    return result;
}

template <typename T>
void put_back(const std::vector<T>& values, Size width, const std::vector<int32_t>& rows, T* into) {
    for (size_t i = 0; i < rows.size(); ++i)
        std::copy_n(values.data() + i * width, width, into + rows[i] * width);
}

// A step over the rows that are present. Rows are copied only if some are not.
template <typename T>
class PresentRows {
  public:
    PresentRows(const Step<T>& given, int64_t ignore_index) : given_(given), step_(given) {
        const int64_t* end = given.targets + given.rows;
        all_ = std::find(given.targets, end, ignore_index) == end;
        if (!all_) select(ignore_index);
        if (!given.weight) {
            weight_.assign(step_.rows, 1);
            step_.weight = weight_.data();
        }
    }

    const Step<T>& step() const { return step_; }

    // Brings the gradients to where they were asked for.
    void put_gradients_back() const {
        if (all_) return;
        put_back(gradient_, given_.classes, rows_, given_.gradient);
        if (!given_.whole) return;
        std::fill_n(given_.whole, given_.rows * given_.classes, T(0));
        put_back(whole_, given_.classes, rows_, given_.whole);
    }

  private:
    const Step<T>& given_;
    Step<T> step_;
    bool all_;
    std::vector<int32_t> rows_;  // which are present
    std::vector<T> logits_, weight_, gradient_, whole_;
    std::vector<int64_t> targets_;
    std::vector<uint8_t> iid_;

    void select(int64_t ignore_index) {
        for (Size i = 0; i < given_.rows; ++i)
            if (given_.targets[i] != ignore_index) rows_.push_back(static_cast<int32_t>(i));
        logits_ = selected(given_.logits, given_.classes, rows_);
        targets_ = selected(given_.targets, 1, rows_);
        gradient_.resize(logits_.size());
        step_.rows = static_cast<Size>(rows_.size());
        step_.logits = logits_.data();
        step_.targets = targets_.data();
        step_.gradient = gradient_.data();
        if (given_.iid) {
            iid_ = selected(given_.iid, 1, rows_);
            step_.iid = iid_.data();
        }
        if (given_.weight) {
            weight_ = selected(given_.weight, 1, rows_);
            step_.weight = weight_.data();
        }
        if (given_.whole) {
            whole_.resize(logits_.size());
            step_.whole = whole_.data();
        }
    }
};

// Whether a batch has targets or weights that are to be refused.
template <typename T>
bool is_refused(const Step<T>& s) {
    const int64_t end = std::max<Size>(s.classes, 2);
    int64_t outside = 0;
    for (Size i = 0; i < s.rows; ++i) outside += (s.targets[i] < 0) | (s.targets[i] >= end);
    for (Size i = 0; i < s.rows; ++i) outside += !(s.weight[i] >= 0) | std::isinf(s.weight[i]);
    return outside > 0;
}

template <typename T>
bool all_finite(const T* values, Size count) {
    T nothing = 0;  // nan as soon as a number is not finite
#pragma omp simd reduction(+ : nothing)
    for (Size i = 0; i < count; ++i) nothing += values[i] * 0;
    return nothing == 0;
}

// Whether a class has a logit that is nan or infinite.
template <typename T>
bool is_poisoned(const Step<T>& s, Size c) {
    for (Size i = 0; i < s.rows; ++i)
        if (!std::isfinite(s.logits[i * s.classes + c])) return true;
    return false;
}

}  // namespace pauc
