// The arguments of a step and of an entry, and the checks of their values.
//
// Nothing here owns memory: every pointer is to a contiguous tensor that the Python caller keeps
// alive for the length of the call. Enumerations are numbered as pauc/native/options.py numbers
// them.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

// Keeps a function out of the two copies of the step for two kinds of processors, for less to
// compile: one whose work is not in a loop that gains by wide registers.
#if defined(__GNUC__)
#define PAUC_APART __attribute__((noinline))
#else
#define PAUC_APART
#endif

namespace pauc {

using Size = std::ptrdiff_t;

enum Surrogate { TRAPEZOID = 0, SIGMOID = 1, LOGISTIC = 2, RECALL = 3, RANKS = 4 };
enum Scale { IQR = 0, BAND = 1, UNIT = 2 };
enum Reduction { MEAN = 0, SUM = 1, NONE = 2 };
enum Interpolation { LINEAR = 0, LOWER = 1, HIGHER = 2, NEAREST = 3, MIDPOINT = 4 };

// What is measured of each class where diagnostics are wanted, as pauc/native/measures.py names it:
// numbers, nan where the class is invalid, and counts, 0 there.
enum Measured { TOP_EDGE, LOW_EDGE, WIDTH, EXACT, VARIANCE, REALISED, MEASURED };
enum Counted { NEGATIVES, LIVE_POSITIVES, COUNTED };

constexpr int BAND_WINDOWS = 3;  // one around the band, and one around each quartile
constexpr int MAX_WINDOWS = 4;   // and one around the band's lower edge in the queue alone

// A batch. A row is absent for a class whose target is `ignore_index`: its logits are never looked
// at.
template <typename T>
struct Batch {
    Size rows, classes;
    int multilabel;          // whether a row has a target for each class
    int64_t ignore_index;    // target of an absent row, or of an absent entry if multi-label
    const T* logits;         // [rows, classes]
    const int64_t* targets;  // [rows]; multi-label [rows, classes]
    const uint8_t* iid;      // [rows]; null: all rows are iid
    const T* weight;         // [rows]; null: ones

    bool is_ignored(int64_t target) const { return target == ignore_index; }

    // 1 for a positive of a class, 0 for a negative, -1 for a row that is absent for it.
    int label(Size row, Size c) const {
        const int64_t target = targets[multilabel ? row * classes + c : row];
        if (is_ignored(target)) return -1;
        return target == (multilabel || classes == 1 ? 1 : c);
    }

    // Whether a row's logit of a class is nan or infinite, and the row is present for the class.
    bool is_poison(Size row, Size c) const {
        return !std::isfinite(logits[row * classes + c]) && label(row, c) >= 0;
    }

    bool is_present(Size row) const {
        for (Size c = 0; c < (multilabel ? classes : 1); ++c)
            if (label(row, c) >= 0) return true;
        return false;
    }
};

// A step: the batch, the queue that it reads, the options, and what it writes.
template <typename T>
struct Step : Batch<T> {
    Size size, fill, num_knots;
    int surrogate, scale, interpolation, pool_numerator, live_gradient, reduction;
    int explained;     // a class's loss weighs what the scores explain of its labels
    int population;    // all iid rows are reference rows, and not the negatives alone
    int moving_knots;  // thresholds have a gradient: that of the reference rows near them
    Size max_pool;     // cap on the rows that enter the surrogate; 0: none
    uint64_t key;      // of the draw of those, the queue's step
    double temperature, pauc_weight, bce_weight;
    // The queue. Slots from `fill` on are empty, and not read; the order of the rows is of no
    // concern.
    const T* held_scores;         // [classes, size]
    const int64_t* held_targets;  // [size]; null if multi-label
    const int8_t* held_labels;    // [classes, size]: 1, 0, or -1 for none; null if not multi-label
    const uint8_t* held_iid;      // [size]
    const T* held_weight;         // [size]
    const double* levels;         // [num_knots] FPRs, ascending
    T* bounds;                    // [classes, MAX_WINDOWS, 2], read as a guess and written anew
    T* loss;                      // [], with NONE [classes]
    T* per_class;                 // [classes], nan where invalid
    bool* valid;                  // [classes]
    bool* degenerate;             // [classes]
    int64_t* ref_count;           // [classes]
    T* gradient;                  // [rows, classes], of `per_class`
    // [rows, classes], of `loss`; null where that is the same factor of `gradient` for all classes:
    // without a cross-entropy, and without `explained`.
    T* whole;
    T* measured;       // [MEASURED, classes], see `Measured`; null: not wanted
    int64_t* counted;  // [COUNTED, classes], see `Counted`; null if `measured` is

    // Returns what scales the gradient of one side of the pairs, for `gradient_scale="live"`.
    double ratio(double total, double live) const {
        return live_gradient && live > 0 ? total / live : 1;
    }

    // The weight of a row of the batch or the queue, numbered through.
    T weight_of(Size row) const {
        if (row >= this->rows) return held_weight[row - this->rows];
        return this->weight ? this->weight[row] : 1;
    }

    // Whether a row of the batch or the queue, numbered through, is iid.
    bool is_iid(Size row) const {
        return row < this->rows ? !this->iid || this->iid[row] : held_iid[row - this->rows];
    }
};

// Whether a target or the weight of a present row is illegal. The step then declines, and Python
// words the error.
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
    T nothing = 0;  // plus x * 0 it stays 0 for a finite x, and becomes nan otherwise
#pragma omp simd reduction(+ : nothing)
    for (Size i = 0; i < count; ++i) nothing += values[i] * 0;
    return nothing == 0;
}

// Whether a class has a logit that makes its loss nan.
template <typename T>
bool is_poisoned(const Batch<T>& b, Size c) {
    for (Size i = 0; i < b.rows; ++i)
        if (b.is_poison(i, c)) return true;
    return false;
}

}  // namespace pauc
