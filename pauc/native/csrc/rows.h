// Which rows of batch and queue play which part for a class, without a mask of all rows.
//
// Rows are numbered through: the batch's from 0, then the queue's from `rows` on. All lists of rows
// are ascending and without repetition, so that they can be merged and walked along with the
// scores.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <vector>

#include "batch.h"

namespace pauc {

constexpr int BLOCK = 128;  // scores that are looked at together

// A list of rows, ascending. It points into a `RowList` that must outlive it and must not grow.
struct Span {
    const int32_t *begin, *end;

    Size size() const { return end - begin; }
    Span below(Size row) const { return {begin, std::lower_bound(begin, end, row)}; }
    Span from(Size row) const { return {below(row).end, end}; }
};

// A class's scores, and its rows. `own` is part of `barred`, and `barred` of `hidden`, unless the
// budget is a share of the population: its reference rows have positives among them.
template <typename T>
struct Class {
    int32_t index;
    Size first;  // rows before it are not looked at: 0, or `rows` for the queue alone
    const T* live;
    const T* held;
    Span own;     // the positives
    Span barred;  // the rows that are no negatives: the positives and the absent rows
    Span hidden;  // the rows that are no reference rows: the barred or absent ones, those not iid
};

using RowList = std::vector<int32_t>;

// The rows of batch and queue by class; of a multi-label step, only `others` and `columns` are
// filled.
template <typename T>
struct Rows {
    RowList own;             // the positives of each class, class after class
    RowList start;           // [classes + 1] or more: where the positives of a class begin in `own`
    RowList absent;          // rows of the batch to ignore; the queue holds none
    RowList others;          // rows that are not iid
    std::vector<T> columns;  // [classes, rows], the batch's scores; empty for one class
};

// Scratch space for the lists of one class, which its spans point into until the next class.
struct ClassRows {
    RowList own, barred, absent, hidden;
};

// Adds the rows with target 1, as rows from `offset` on.
inline void append_positives(const int64_t* targets, Size count, Size offset, RowList& into) {
    constexpr Size FEW =
        16;  // so few rows that most stretches have no positive and are passed over
    for (Size first = 0; first < count; first += FEW) {
        const Size end = std::min(first + FEW, count);
        int64_t some = 0;  // as wide as a target, so that the loop can be vectorised
        for (Size i = first; i < end; ++i) some += targets[i] == 1;
        if (some == 0) continue;
        for (Size i = first; i < end; ++i)
            if (targets[i] == 1) into.push_back(static_cast<int32_t>(offset + i));
    }
}

// Adds the rows that are not iid, as rows from `offset` on. Nearly always there are none, which
// memchr finds out fastest.
inline void append_others(const uint8_t* iid, Size count, Size offset, RowList& into) {
    if (count == 0 || !iid) return;
    const uint8_t* at = iid;
    while ((at = static_cast<const uint8_t*>(std::memchr(at, 0, iid + count - at)))) {
        into.push_back(static_cast<int32_t>(offset + (at - iid)));
        ++at;
    }
}

// Adds a multi-label column's positives to `own`, its absent rows to `absent`, and all of them to
// `barred`.
template <typename Labels>
void append_labelled(const Labels& label_of_row, Size count, Size offset, ClassRows& rows) {
    for (Size i = 0; i < count; ++i) {
        const int label = label_of_row(i);
        if (label >= 0 && label != 1) continue;
        const int32_t row = static_cast<int32_t>(offset + i);
        rows.barred.push_back(row);
        (label == 1 ? rows.own : rows.absent).push_back(row);
    }
}

// Fills `own` and `start` by a counting sort. A target that is no class, ignored or illegal, goes
// to one more list at the end, which nobody reads.
template <typename T>
void sort_by_class(const Step<T>& s, Rows<T>& rows) {
    const Size total = s.rows + s.fill;
    // Each target is read once. Another thread might write to a queue that it shares, and a target
    // that changes between counting and sorting would write outside of `own`.
    RowList target(total);
    for (Size i = 0; i < total; ++i) {
        const bool is_live = i < s.rows;
        const int64_t given = is_live ? s.targets[i] : s.held_targets[i - s.rows];
        const bool known = given >= 0 && given < s.classes && !(is_live && s.is_ignored(given));
        target[i] = static_cast<int32_t>(known ? given : s.classes);
    }
    rows.start.resize(s.classes + 2);  // with the list of what is no class
    for (Size i = 0; i < total; ++i) ++rows.start[target[i] + 1];
    for (Size c = 0; c <= s.classes; ++c) rows.start[c + 1] += rows.start[c];
    rows.own.resize(total);
    RowList next(rows.start.begin(), rows.start.end() - 1);
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
    if (s.classes > 1) rows.columns = transposed(s.logits, s.rows, s.classes);
    append_others(s.iid, s.rows, 0, rows.others);
    append_others(s.held_iid, s.fill, s.rows, rows.others);
    if (s.multilabel) return rows;
    for (Size i = 0; i < s.rows; ++i)
        if (s.is_ignored(s.targets[i])) rows.absent.push_back(static_cast<int32_t>(i));
    if (s.classes > 1) {
        sort_by_class(s, rows);
        return rows;
    }
    if (!s.is_ignored(1)) append_positives(s.targets, s.rows, 0, rows.own);
    append_positives(s.held_targets, s.fill, s.rows, rows.own);
    rows.start = {0, static_cast<int32_t>(rows.own.size())};
    return rows;
}

inline Span span_of(const RowList& rows) {
    return {rows.data(), rows.data() + rows.size()};
}

// Returns the union of two ascending lists, put together in `into` unless one list does.
inline Span merged(Span rows, const RowList& more, RowList& into) {
    if (more.empty()) return rows;
    into.clear();
    std::set_union(rows.begin, rows.end, more.begin(), more.end(), std::back_inserter(into));
    return span_of(into);
}

// Returns a class. Its spans point into `rows` and `room`, and hold until `room` serves the next
// class.
template <typename T>
Class<T> make_class(const Step<T>& s, const Rows<T>& rows, Size index, ClassRows& room) {
    Class<T> c{};
    c.index = static_cast<int32_t>(index);
    c.live = s.classes == 1 ? s.logits : rows.columns.data() + index * s.rows;
    c.held = s.held_scores + index * s.size;
    if (s.multilabel) {
        room.own.clear();
        room.barred.clear();
        room.absent.clear();
        const auto live = [&](Size i) { return s.label(i, index); };
        const auto held = [&](Size i) -> int { return s.held_labels[index * s.size + i]; };
        append_labelled(live, s.rows, 0, room);
        append_labelled(held, s.fill, s.rows, room);
        c.own = span_of(room.own);
        c.barred = span_of(room.barred);
    } else {
        const int32_t* own = rows.own.data();
        c.own = {own + rows.start[index], own + rows.start[index + 1]};
        c.barred = merged(c.own, rows.absent, room.barred);
    }
    const Span absent = span_of(s.multilabel ? room.absent : rows.absent);
    c.hidden = merged(s.population ? absent : c.barred, rows.others, room.hidden);
    return c;
}

// Calls `visit(values, first)` for each block of BLOCK scores of the `count` rows from `offset` on,
// where `first` counts from `offset`. Hidden rows, and what fills up the last block, are nan: no
// comparison with nan is true, so that a visitor need not ask. A block without hidden rows is not
// copied.
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

// Walks over a class's scores in the batch: calls `visit(values, row)` as `for_each_block` does,
// `row` being the number of the first.
template <typename T, typename Visit>
void walk_batch(const Step<T>& s, const Class<T>& c, Span hidden, const Visit& visit) {
    if (c.first == 0) for_each_block(c.live, 0, s.rows, hidden, visit);
}

// Walks over those in the queue.
template <typename T, typename Visit>
void walk_queue(const Step<T>& s, const Class<T>& c, Span hidden, const Visit& visit) {
    for_each_block(c.held, s.rows, s.fill, hidden, [&](const T* values, Size first) {
        visit(values, s.rows + first);
    });
}

// Returns the class of the queue's rows alone.
template <typename T>
Class<T> of_queue(const Step<T>& s, Class<T> c) {
    c.first = s.rows;
    c.own = c.own.from(s.rows);
    c.barred = c.barred.from(s.rows);
    c.hidden = c.hidden.from(s.rows);
    return c;
}

// Returns how many reference rows a class has.
template <typename T>
int64_t count_references(const Step<T>& s, const Class<T>& c) {
    return s.rows + s.fill - c.first - c.hidden.size();
}

// Calls `visit(score)` for each positive that is a reference row, as there are where the budget is
// a share of the population.
template <typename T, typename Visit>
void for_each_own_reference(const Step<T>& s, const Class<T>& c, const Visit& visit) {
    if (!s.population) return;
    for (const int32_t* at = c.own.begin; at != c.own.end; ++at)
        if (s.is_iid(*at)) visit(*at < s.rows ? c.live[*at] : c.held[*at - s.rows]);
}

// Returns how many iid negatives a class has.
template <typename T>
int64_t count_iid_negatives(const Step<T>& s, const Class<T>& c) {
    int64_t count = count_references(s, c);
    for_each_own_reference(s, c, [&](T) { --count; });
    return count;
}

}  // namespace pauc
