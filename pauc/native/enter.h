// Rows that enter the queue.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "rows.h"

namespace pauc {

template <typename T>
struct Entry {
    Size rows, classes, size;
    int64_t ignore_index;
    // Batch: as of a step.
    const T* logits;
    const int64_t* targets;
    const uint8_t* iid;
    const T* weight;
    // Queue.
    T* held_scores;
    int64_t* held_targets;
    uint8_t* held_iid;
    T* held_weight;
    int64_t *cursor, *fill, *step;
};

// The newest rows that fit, oldest first, of those that are present and have finite logits.
template <typename T>
std::vector<Size> entering_rows(const Entry<T>& e) {
    std::vector<Size> rows;
    for (Size i = e.rows; i-- > 0 && static_cast<Size>(rows.size()) < e.size;) {
        bool finite = true;
        for (Size c = 0; c < e.classes; ++c) finite &= std::isfinite(e.logits[i * e.classes + c]);
        if (finite && e.targets[i] != e.ignore_index) rows.push_back(i);
    }
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
        e.held_targets[at] = e.targets[i];
        e.held_iid[at] = e.iid ? e.iid[i] : 1;
        e.held_weight[at] = e.weight ? e.weight[i] : 1;
    }
    // Tiles, so that neither reads nor writes jump from line to line of memory.
    constexpr Size TILE = 16;
    for (Size first = 0; first < count; first += TILE)
        for (Size c = 0; c < e.classes; ++c)
            for (Size k = first; k < std::min(first + TILE, count); ++k)
                e.held_scores[c * e.size + slot(k)] = e.logits[rows[k] * e.classes + c];
    *e.cursor = (start + count) % e.size;
    *e.fill = std::min<int64_t>(*e.fill + count, e.size);
}

}  // namespace pauc
