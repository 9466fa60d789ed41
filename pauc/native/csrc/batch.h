// What a step is given, and what of it is to be refused.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace pauc {

using Size = std::ptrdiff_t;

enum Surrogate { TRAPEZOID = 0, SIGMOID = 1, LOGISTIC = 2 };
enum Scale { IQR = 0, BAND = 1, UNIT = 2 };
enum Reduction { MEAN = 0, SUM = 1, NONE = 2 };
enum Interpolation { LINEAR = 0, LOWER = 1, HIGHER = 2, NEAREST = 3, MIDPOINT = 4 };

constexpr int MAX_WINDOWS = 3;  // around the band, and around each quartile

template <typename T>
struct Batch {
    Size rows, classes;
    int multilabel;          // whether a row has a label for each class
    int64_t ignore_index;    // target of what is absent
    const T* logits;         // [rows, classes]
    const int64_t* targets;  // [rows]; multi-label [rows, classes]
    const uint8_t* iid;      // [rows]; null: all are
    const T* weight;         // [rows]; null: ones

    bool is_ignored(int64_t target) const { return target == ignore_index; }

    // 1 for a positive of a class, 0 for a negative, -1 for a row that is absent for it.
    int label(Size row, Size c) const {
        const int64_t target = targets[multilabel ? row * classes + c : row];
        if (is_ignored(target)) return -1;
        return target == (multilabel || classes == 1 ? 1 : c);
    }

    // Whether a row has a logit of a class that is nan or infinite, and counts for it.
    bool is_poison(Size row, Size c) const {
        return !std::isfinite(logits[row * classes + c]) && label(row, c) >= 0;
    }

    bool is_present(Size row) const {
        for (Size c = 0; c < (multilabel ? classes : 1); ++c)
            if (label(row, c) >= 0) return true;
        return false;
    }
};

template <typename T>
struct Step : Batch<T> {
    Size size, fill, num_knots;
    int surrogate, scale, interpolation, pool_numerator, live_gradient, reduction;
    double temperature, pauc_weight, bce_weight;
    // Queue, of which the first `fill` of `size` are rows.
    const T* held_scores;         // [classes, size]
    const int64_t* held_targets;  // [size]
    const int8_t* held_labels;    // multi-label, [classes, size]: 1, 0, or -1 for none
    const uint8_t* held_iid;      // [size]
    const T* held_weight;         // [size]
    const double* levels;         // [num_knots] FPRs, ascending
    T* bounds;                    // [classes, MAX_WINDOWS, 2], brought up to date
    T* loss;                      // [], with NONE [classes]
    T* per_class;                 // [classes], nan where invalid
    bool* valid;                  // [classes]
    bool* degenerate;             // [classes]
    int64_t* ref_count;           // [classes]
    T* gradient;                  // [rows, classes] of `per_class`, zeros at first
    T* whole;                     // [rows, classes] of `loss`; null: there is no cross-entropy
};

// Whether a batch has targets or weights that are to be refused.
template <typename T>
bool is_refused(const Batch<T>& b) {
    const int64_t end = b.multilabel ? 2 : std::max<Size>(b.classes, 2);
    const Size count = b.multilabel ? b.rows * b.classes : b.rows;
    int64_t bad = 0;
    for (Size i = 0; i < count; ++i) {
        const int64_t target = b.targets[i];
        bad += !b.is_ignored(target) && (target < 0 || target >= end);
    }
    for (Size i = 0; b.weight && i < b.rows; ++i) {
        const bool good = b.weight[i] >= 0 && std::isfinite(b.weight[i]);
        bad += !good && b.is_present(i);
    }
    return bad > 0;
}

template <typename T>
bool all_finite(const T* values, Size count) {
    T nothing = 0;  // nan as soon as a number is not finite
#pragma omp simd reduction(+ : nothing)
    for (Size i = 0; i < count; ++i) nothing += values[i] * 0;
    return nothing == 0;
}

// Whether a class has such a logit.
template <typename T>
bool is_poisoned(const Batch<T>& b, Size c) {
    for (Size i = 0; i < b.rows; ++i)
        if (b.is_poison(i, c)) return true;
    return false;
}

}  // namespace pauc
