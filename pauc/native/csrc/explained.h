// How much of a class's labels its scores explain: pauc/core/explained.py is the readable account.

#pragma once

#include <algorithm>
#include <cmath>
#include <iterator>

#include "exponential.h"
#include "rows.h"

namespace pauc {

// Sums over the rows of a class that are present.
struct Entropies {
    double cross = 0, positive = 0, present = 0;

    // Adds BLOCK scores as if all were of negatives; nan is absent. `weight` has as many entries.
    template <typename T>
    void add_block(const T* value, const T* weight) {
        T small[BLOCK], linear[BLOCK], one[BLOCK];
        bool plain = true;
#pragma omp simd reduction(&& : plain)
        for (int j = 0; j < BLOCK; ++j) {
            const bool is = value[j] == value[j];
            const T x = is ? value[j] : T(0);
            small[j] = exp_of_minus(std::abs(value[j]));  // 0 of nan
            linear[j] = std::max(x, T(0));
            one[j] = is ? T(1) : T(0);
            plain = plain && (!is || weight[j] == 1);
        }
        if (!plain) {
            for (int j = 0; j < BLOCK; ++j) {
                const double w = one[j] > 0 ? weight[j] : 0;
                cross += w * (linear[j] + std::log1p(static_cast<double>(small[j])));
                present += w;
            }
            return;
        }
        // The sum of log(1 + small) is the logarithm of a product of at most 2**BLOCK.
        double product = 1, sum = 0, count = 0;
#pragma omp simd reduction(* : product) reduction(+ : sum, count)
        for (int j = 0; j < BLOCK; ++j) {
            product *= 1 + static_cast<double>(small[j]);
            sum += linear[j];
            count += one[j];
        }
        cross += sum + std::log(product);
        present += count;
    }

    // Adds `count` rows from row `offset` on; `weight` may be null.
    template <typename T>
    void add_rows(const T* scores, const T* weight, Size offset, Size count, Span absent) {
        T room[BLOCK];
        std::fill(room, room + BLOCK, T(1));
        for_each_block(scores, offset, count, absent, [&](const T* value, Size first) {
            if (!weight) return add_block(value, room);
            const Size some = std::min<Size>(BLOCK, count - first);
            if (some == BLOCK) return add_block(value, weight + first);
            std::copy(weight + first, weight + first + some, room);
            add_block(value, room);
        });
    }
};

// Returns the cube of the share of the labels' entropy that is explained (McFadden 1974), at least
// 0. No live score of the class may be nan or infinite where its row is present.
template <typename T>
double explained_weight(const Step<T>& s, const Class<T>& c) {
    RowList room;
    if (c.barred.size() > c.own.size())
        std::set_difference(
            c.barred.begin, c.barred.end, c.own.begin, c.own.end, std::back_inserter(room)
        );
    const Span absent = span_of(room);
    Entropies sums;
    sums.add_rows(c.live, s.weight, 0, s.rows, absent);
    sums.add_rows(c.held, s.held_weight, s.rows, s.fill, absent);
    for (const int32_t* at = c.own.begin; at != c.own.end; ++at) {
        const T score = *at < s.rows ? c.live[*at] : c.held[*at - s.rows];
        const double weight = s.weight_of(*at);
        sums.cross -= weight * score;
        sums.positive += weight;
    }
    const double rate = sums.positive / sums.present;
    if (!(rate > 0 && rate < 1)) return 0;
    const double entropy = -rate * std::log(rate) - (1 - rate) * std::log1p(-rate);
    const double share = std::max(1 - sums.cross / sums.present / entropy, 0.0);
    return share * share * share;
}

}  // namespace pauc
