// The rows of a step, sorted by class.

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

// Rows in ascending order: the batch's from 0 on, then the queue's.
struct Span {
    const int32_t *begin, *end;

    Size size() const { return end - begin; }
    Span below(Size row) const { return {begin, std::lower_bound(begin, end, row)}; }
};

// A class's scores, in batch and queue.
template <typename T>
struct Class {
    int32_t index;
    const T* live;
    const T* held;
    Span own;     // the rows that are its positives
    Span barred;  // the rows that are no negatives: these, and those which are absent
    Span hidden;  // the rows that are no reference rows: these, and those which are not iid
};

using RowList = std::vector<int32_t>;

// The rows of batch and queue, sorted by class unless a row has a label for each.
template <typename T>
struct Rows {
    RowList own;             // class after class; the positives, if there is one class
    RowList start;           // [classes + 1] or more, where a class's begin
    RowList absent;          // of the batch
    RowList others;          // not iid
    std::vector<T> columns;  // [classes, rows], the batch's scores; empty for one class
};

// Where a class's rows are put together.
struct ClassRows {
    RowList own, barred, hidden;
};

// Adds the rows with target 1, as rows from `offset` on.
inline void append_positives(const int64_t* targets, Size count, Size offset, RowList& into) {
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
inline void append_others(const uint8_t* iid, Size count, Size offset, RowList& into) {
    if (count == 0 || !iid) return;
    const uint8_t* at = iid;
    while ((at = static_cast<const uint8_t*>(std::memchr(at, 0, iid + count - at)))) {
        into.push_back(static_cast<int32_t>(offset + (at - iid)));
        ++at;
    }
}

// Adds the rows of a column that are no negatives to `barred`, and the positives to `own` too.
template <typename Labels>
void append_labelled(
    const Labels& label_of_row, Size count, Size offset, RowList& own, RowList& barred
) {
    for (Size i = 0; i < count; ++i) {
        const int label = label_of_row(i);
        if (label >= 0 && label != 1) continue;
        const int32_t row = static_cast<int32_t>(offset + i);
        barred.push_back(row);
        if (label == 1) own.push_back(row);
    }
}

template <typename T>
void sort_by_class(const Step<T>& s, Rows<T>& rows) {
    const Size total = s.rows + s.fill;
    // Read once: another thread might change a queue that it shares.
    RowList target(total);
    for (Size i = 0; i < total; ++i) {
        const bool is_live = i < s.rows;
        const int64_t given = is_live ? s.targets[i] : s.held_targets[i - s.rows];
        const bool known = given >= 0 && given < s.classes && !(is_live && s.is_ignored(given));
        target[i] = static_cast<int32_t>(known ? given : s.classes);
    }
    rows.start.resize(s.classes + 2);  // the last is no class
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

inline Span merged(Span rows, const RowList& more, RowList& into) {
    if (more.empty()) return rows;
    into.clear();
    std::set_union(rows.begin, rows.end, more.begin(), more.end(), std::back_inserter(into));
    return span_of(into);
}

// Returns a class, whose rows are put together in `room` where they must be.
template <typename T>
Class<T> make_class(const Step<T>& s, const Rows<T>& rows, Size index, ClassRows& room) {
    Class<T> c{};
    c.index = static_cast<int32_t>(index);
    c.live = s.classes == 1 ? s.logits : rows.columns.data() + index * s.rows;
    c.held = s.held_scores + index * s.size;
    if (s.multilabel) {
        room.own.clear();
        room.barred.clear();
        const auto live = [&](Size i) { return s.label(i, index); };
        const auto held = [&](Size i) -> int { return s.held_labels[index * s.size + i]; };
        append_labelled(live, s.rows, 0, room.own, room.barred);
        append_labelled(held, s.fill, s.rows, room.own, room.barred);
        c.own = span_of(room.own);
        c.barred = span_of(room.barred);
    } else {
        const int32_t* own = rows.own.data();
        c.own = {own + rows.start[index], own + rows.start[index + 1]};
        c.barred = merged(c.own, rows.absent, room.barred);
    }
    c.hidden = merged(c.barred, rows.others, room.hidden);
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
