// What a step is given, and its rows sorted by class.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <vector>

namespace pauc {

using Size = std::ptrdiff_t;

enum Surrogate { TRAPEZOID = 0, SIGMOID = 1, LOGISTIC = 2 };
enum Scale { IQR = 0, BAND = 1, UNIT = 2 };
enum Reduction { MEAN = 0, SUM = 1, NONE = 2 };
enum Interpolation { LINEAR = 0, LOWER = 1, HIGHER = 2, NEAREST = 3, MIDPOINT = 4 };

constexpr int MAX_WINDOWS = 3;  // around the band, and around each quartile
constexpr int BLOCK = 128;      // scores that are looked at together

template <typename T>
struct Step {
    Size rows, classes, size, fill, num_knots;
    int surrogate, scale, interpolation, pool_numerator, live_gradient, reduction;
    double temperature, pauc_weight, bce_weight;
    // Batch: logits [rows, classes], the others [rows].
    const T* logits;
    const int64_t* targets;
    const uint8_t* iid;  // null: all rows are
    const T* weight;     // null: ones
    // Queue: scores [classes, size], the others [size], of which the first `fill` are rows.
    const T* held_scores;
    const int64_t* held_targets;
    const uint8_t* held_iid;
    const T* held_weight;
    const double* levels;  // [num_knots] FPRs, ascending
    T* bounds;             // [classes, MAX_WINDOWS, 2], brought up to date
    T* loss;               // [], with NONE [classes]
    T* per_class;          // [classes], nan where invalid
    bool* valid;           // [classes]
    bool* degenerate;      // [classes]
    int64_t* ref_count;    // [classes]
    T* gradient;           // [rows, classes] of `per_class`, zeros at first
    T* whole;              // [rows, classes] of `loss`; null: there is no cross-entropy in it
};

// Rows in ascending order: the batch's from 0 on, then the queue's.
struct Span {
    const int32_t *begin, *end;

    Span below(Size row) const { return {begin, std::lower_bound(begin, end, row)}; }
};

// A class's scores, in batch and queue.
template <typename T>
struct Class {
    int32_t index;
    const T* live;
    const T* held;
    Span own;     // the rows that are its positives
    Span hidden;  // the rows that are no reference rows: these, and those which are not iid
};

// The rows of batch and queue, sorted by class.
template <typename T>
struct Rows {
    std::vector<int32_t> own;     // class after class; the positives, if there is one class
    std::vector<int32_t> start;   // [classes + 1] or more, where a class's begin
    std::vector<int32_t> others;  // not iid
    std::vector<T> columns;       // [classes, rows], the batch's scores; empty for one class
};

// Adds the rows with target 1, as rows from `offset` on.
inline void append_positives(
    const int64_t* targets, Size count, Size offset, std::vector<int32_t>& into
) {
    constexpr Size FEW = 16;  // so that most have none
    for (Size first = 0; first < count; first += FEW) {
        const Size end = std::min(first + FEW, count);
        int64_t some = 0;  // as wide as a target
        for (Size i = first; i < end; ++i) some += targets[i] == 1;
        if (some == 0) continue;
        for (Size i = first; i < end; ++i)
            if (targets[i] == 1) into.push_back(static_cast<int32_t>(offset + i));
    }
}

// Adds the rows that are not iid, as rows from `offset` on. There are none nearly always.
inline void append_others(const uint8_t* iid, Size count, Size offset, std::vector<int32_t>& into) {
    if (count == 0 || !iid) return;
    const uint8_t* at = iid;
    while ((at = static_cast<const uint8_t*>(std::memchr(at, 0, iid + count - at)))) {
        into.push_back(static_cast<int32_t>(offset + (at - iid)));
        ++at;
    }
}

template <typename T>
void sort_by_class(const Step<T>& s, Rows<T>& rows) {
    const Size total = s.rows + s.fill;
    // Read once: another thread might change a queue that it shares.
    std::vector<int32_t> target(total);
    for (Size i = 0; i < total; ++i) {
        const int64_t given = i < s.rows ? s.targets[i] : s.held_targets[i - s.rows];
        const bool known = given >= 0 && given < s.classes;
        target[i] = static_cast<int32_t>(known ? given : s.classes);
    }
    rows.start.resize(s.classes + 2);  // the last is no class
    for (Size i = 0; i < total; ++i) ++rows.start[target[i] + 1];
    for (Size c = 0; c <= s.classes; ++c) rows.start[c + 1] += rows.start[c];
    rows.own.resize(total);
    std::vector<int32_t> next(rows.start.begin(), rows.start.end() - 1);
    for (Size i = 0; i < total; ++i) rows.own[next[target[i]]++] = static_cast<int32_t>(i);
}

template <typename T>
std::vector<T> transposed(const T* values, Size rows, Size columns) {
    constexpr Size TILE = 32;
    std::vector<T> result(rows * columns);
    for (Size top = 0; top < rows; top += TILE)
        for (Size left = 0; left < columns; left += TILE)
            for (Size c = left; c < std::min(left + TILE, columns); ++c)
                for (Size i = top; i < std::min(top + TILE, rows); ++i)
                    result[c * rows + i] = values[i * columns + c];
    return result;
}

template <typename T>
Rows<T> sort_rows(const Step<T>& s) {
    Rows<T> rows;
    if (s.classes == 1) {
        append_positives(s.targets, s.rows, 0, rows.own);
        append_positives(s.held_targets, s.fill, s.rows, rows.own);
        rows.start = {0, static_cast<int32_t>(rows.own.size())};
    } else {
        sort_by_class(s, rows);
        rows.columns = transposed(s.logits, s.rows, s.classes);
    }
    append_others(s.iid, s.rows, 0, rows.others);
    append_others(s.held_iid, s.fill, s.rows, rows.others);
    return rows;
}

// Returns a class; `hidden` is where its rows are put together, if they must be.
template <typename T>
Class<T> make_class(
    const Step<T>& s, const Rows<T>& rows, Size index, std::vector<int32_t>& hidden
) {
    const int32_t* own = rows.own.data();
    Class<T> c{
        static_cast<int32_t>(index),
        s.classes == 1 ? s.logits : rows.columns.data() + index * s.rows,
        s.held_scores + index * s.size,
        {own + rows.start[index], own + rows.start[index + 1]},
        {},
    };
    c.hidden = c.own;
    if (rows.others.empty()) return c;
    hidden.clear();
    std::set_union(
        c.own.begin, c.own.end, rows.others.begin(), rows.others.end(), std::back_inserter(hidden)
    );
    c.hidden = {hidden.data(), hidden.data() + hidden.size()};
    return c;
}

// Calls `visit(values, first)` for blocks of the scores of `count` rows from `offset` on, with nan
// in place of hidden ones and to fill the last block; `first` counts from `offset`.
template <typename T, typename Visit>
void for_each_block(const T* scores, Size offset, Size count, Span hidden, const Visit& visit) {
    constexpr T nan = std::numeric_limits<T>::quiet_NaN();
    const int32_t* next = hidden.below(offset).end;
    T value[BLOCK];
    for (Size first = 0; first < count; first += BLOCK) {
        const Size some = std::min<Size>(BLOCK, count - first), end = offset + first + some;
        if (some == BLOCK && (next == hidden.end || *next >= end)) {
            visit(scores + first, first);
            continue;
        }
        std::fill(std::copy(scores + first, scores + first + some, value), value + BLOCK, nan);
        for (; next != hidden.end && *next < end; ++next) value[*next - offset - first] = nan;
        visit(value, first);
    }
}

}  // namespace pauc
