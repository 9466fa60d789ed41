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
        if (!std::isfinite(b.logits[row * b.classes + c]) && b.label(row, c) >= 0) return false;
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

template <typename T>
void enter(const Entry<T>& e) {
    ++*e.step;
    if (e.size == 0) return;
    const std::vector<Size> rows = entering_rows(e);
    const Size count = static_cast<Size>(rows.size());
    const int64_t start = (*e.cursor % e.size + e.size) % e.size;
    const auto slot = [&](Size k) { return start + k < e.size ? start + k : start + k - e.size; };
    for (Size k = 0; k < count; ++k) {
        const Size i = rows[k], at = slot(k);
        if (!e.multilabel) e.held_targets[at] = e.targets[i];
        e.held_iid[at] = e.iid ? e.iid[i] : 1;
        e.held_weight[at] = e.weight ? e.weight[i] : 1;
    }
    // Tiles, so that neither reads nor writes jump from line to line of memory.
    constexpr Size TILE = 16;
    for (Size first = 0; first < count; first += TILE)
        for (Size c = 0; c < e.classes; ++c)
            for (Size k = first; k < std::min(first + TILE, count); ++k) {
                const Size i = rows[k], at = c * e.size + slot(k);
                const int label = e.label(i, c);
                // What has no label may be anything, and no nan is to lie in the queue.
                e.held_scores[at] = label < 0 ? 0 : e.logits[i * e.classes + c];
                if (e.multilabel) e.held_labels[at] = static_cast<int8_t>(label);
            }
    *e.cursor = (start + count) % e.size;
    *e.fill = std::min<int64_t>(*e.fill + count, e.size);
}

}  // namespace pauc
