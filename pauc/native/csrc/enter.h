// How the rows of a batch enter the queue: in place, in order, the newest that fit.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "batch.h"

namespace pauc {

// An entry: the batch, and the queue that it writes. Shapes are those of a step.
template <typename T>
struct Entry : Batch<T> {
    Size size;  // slots of the queue
    T* held_scores;
    int64_t* held_targets;
    int8_t* held_labels;
    uint8_t* held_iid;
    T* held_weight;
    int64_t *cursor, *fill, *step;
};

// Whether a row may enter: it is present for some class, and its logit is finite for each of them.
template <typename T>
bool may_enter(const Batch<T>& b, Size row) {
    if (!b.is_present(row)) return false;
    if (all_finite(b.logits + row * b.classes, b.classes)) return true;
    for (Size c = 0; c < b.classes; ++c)
        if (b.is_poison(row, c)) return false;
    return true;
}

// The rows that enter, in ascending order: the newest that may, no more than there are slots.
template <typename T>
std::vector<Size> entering_rows(const Entry<T>& e) {
    std::vector<Size> rows;
    for (Size i = e.rows; i-- > 0 && static_cast<Size>(rows.size()) < e.size;)
        if (may_enter(e, i)) rows.push_back(i);
    std::reverse(rows.begin(), rows.end());
    return rows;
}

// Calls `visit(k, class)` for all rows and classes. The batch lies row by row and the queue class
// by class; in tiles, neither is walked across its cache lines.
template <typename Visit>
void for_each_entry(Size rows, Size classes, const Visit& visit) {
    constexpr Size TILE = 16;
    for (Size first = 0; first < rows; first += TILE)
        for (Size c = 0; c < classes; ++c)
            for (Size k = first; k < std::min(first + TILE, rows); ++k) visit(k, c);
}

// Lets the rows enter. After it `0 <= cursor < size` and `fill <= size` hold whatever the cursor
// was, so that a corrupt one writes to the wrong slots of this queue but never outside of it.
template <typename T>
void enter(const Entry<T>& e) {
    ++*e.step;
    if (e.size == 0) return;
    const std::vector<Size> rows = entering_rows(e);
    const Size count = static_cast<Size>(rows.size());
    const int64_t start = (*e.cursor % e.size + e.size) % e.size;
    std::vector<Size> slots(count);
    for (Size k = 0; k < count; ++k) {
        const Size i = rows[k], from = start + k, at = from < e.size ? from : from - e.size;
        slots[k] = at;
        if (!e.multilabel) e.held_targets[at] = e.targets[i];
        e.held_iid[at] = e.iid ? e.iid[i] : 1;
        e.held_weight[at] = e.weight ? e.weight[i] : 1;
    }
    for_each_entry(count, e.classes, [&](Size k, Size c) {
        e.held_scores[c * e.size + slots[k]] = e.logits[rows[k] * e.classes + c];
    });
    if (e.multilabel)
        for_each_entry(count, e.classes, [&](Size k, Size c) {
            const Size at = c * e.size + slots[k];
            const int label = e.label(rows[k], c);
            e.held_labels[at] = static_cast<int8_t>(label);
            // The logit of an absent entry may be anything; no nan may come to lie in the queue.
            if (label < 0) e.held_scores[at] = 0;
        });
    *e.cursor = (start + count) % e.size;
    *e.fill = std::min<int64_t>(*e.fill + count, e.size);
}

}  // namespace pauc
