// Rows that enter the queue.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "batch.h"

namespace pauc {

template <typename T>
struct Entry : Batch<T> {
    Size size;
    // Queue, as of a step.
    T* held_scores;
    int64_t* held_targets;
    int8_t* held_labels;
    uint8_t* held_iid;
    T* held_weight;
    int64_t *cursor, *fill, *step;
};

// Whether a row has a label, and a finite logit wherever it has one.
template <typename T>
bool may_enter(const Batch<T>& b, Size row) {
    if (!b.is_present(row)) return false;
    if (all_finite(b.logits + row * b.classes, b.classes)) return true;
    for (Size c = 0; c < b.classes; ++c)
        if (b.is_poison(row, c)) return false;
    return true;
}

// The newest rows that fit, oldest first.
template <typename T>
std::vector<Size> entering_rows(const Entry<T>& e) {
    std::vector<Size> rows;
    for (Size i = e.rows; i-- > 0 && static_cast<Size>(rows.size()) < e.size;)
        if (may_enter(e, i)) rows.push_back(i);
    std::reverse(rows.begin(), rows.end());
    return rows;
}

// Calls `visit(k, class)` for all rows and classes, in tiles, so that neither the batch nor the
// queue is read or written from line to line of memory.
template <typename Visit>
void for_each_entry(Size rows, Size classes, const Visit& visit) {
    constexpr Size TILE = 16;
    for (Size first = 0; first < rows; first += TILE)
        for (Size c = 0; c < classes; ++c)
            for (Size k = first; k < std::min(first + TILE, rows); ++k) visit(k, c);
}

template <typename T>
void enter(const Entry<T>& e) {
    ++*e.step;
    if (e.size == 0) return;
    const std::vector<Size> rows = entering_rows(e);
    const Size count = static_cast<Size>(rows.size());
    const int64_t start = (*e.cursor % e.size + e.size) % e.size;
    std::vector<Size> slots(count);
    for (Size k = 0; k < count; ++k) {
        const Size i = rows[k], at = slots[k] = (start + k) % e.size;
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
            if (label < 0) e.held_scores[at] = 0;  // it may be anything, but no nan in the queue
        });
    *e.cursor = (start + count) % e.size;
    *e.fill = std::min<int64_t>(*e.fill + count, e.size);
}

}  // namespace pauc
