// Positives against the band: what they contribute, and how that moves with the scores.

#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "band.h"
#include "rows.h"

namespace pauc {

template <typename T>
struct Positives {
    Span row;
    std::vector<T> score, weight;
    size_t live;  // the first ones
    double total = 0, live_total = 0;
};

template <typename T>
struct Negatives {
    std::vector<T> score;
    std::vector<int32_t> row;  // of the live ones, which are the first
};

// Sums over positives and negatives of one class. Slopes are by a score in units of tau.
template <typename T>
struct Sums {
    double value = 0;         // of the weighted contributions
    std::vector<T> positive;  // by each live positive's score, unweighted
    std::vector<T> negative;  // by each live negative's score, with the opposite sign
};

template <typename T>
T sigmoid(T u) {
    return 1 / (1 + std::exp(-u));
}

template <typename T>
Positives<T> gather_positives(const Step<T>& s, const Class<T>& c) {
    Positives<T> positives;
    positives.row = s.pool_numerator ? c.own : c.own.below(s.rows);
    positives.live = c.own.below(s.rows).end - c.own.begin;
    for (const int32_t* at = positives.row.begin; at != positives.row.end; ++at) {
        const bool is_live = *at < s.rows;
        const T live_weight = is_live && s.weight ? s.weight[*at] : 1;
        const T weight = is_live ? live_weight : s.held_weight[*at - s.rows];
        positives.score.push_back(is_live ? c.live[*at] : c.held[*at - s.rows]);
        positives.weight.push_back(weight);
        positives.total += weight;
        if (is_live) positives.live_total += weight;
    }
    return positives;
}

// The negatives in the band, iid or not. `window` is the band's.
template <typename T>
Negatives<T> gather_negatives(
    const Step<T>& s, const Class<T>& c, const Band<T>& band, const Window<T>& window
) {
    Negatives<T> negatives;
    const T upper = band.knots.front(), below = next_below(band.knots.back());
    size_t used = 0;
    auto collect = [&](const T* value, Size first) {
        make_room(negatives.score, used);
        make_room(negatives.row, used);
        visit_between(value, below, upper, [&](int j, size_t is) {
            negatives.score[used] = value[j];
            negatives.row[used] = static_cast<int32_t>(first + j);
            used += is;
        });
    };
    for_each_block(c.live, 0, s.rows, c.barred, collect);
    const size_t live = used;
    if (c.hidden.size() > c.barred.size()) {  // others may be in the band
        for_each_block(c.held, s.rows, s.fill, c.barred, collect);
        negatives.score.resize(used);
    } else {  // the window holds them all
        negatives.score.resize(live);
        for (size_t i = window.live; i < window.inside.size(); ++i)
            if (window.inside[i] > below && !(window.inside[i] > upper))
                negatives.score.push_back(window.inside[i]);
    }
    negatives.row.resize(live);
    return negatives;
}

template <typename T>
Sums<T> trapezoid_sums(const Positives<T>& positives, const Band<T>& band) {
    Sums<T> sums;
    const size_t last = band.knots.size() - 1;
    sums.positive.resize(positives.live);
    for (size_t i = 0; i < positives.score.size(); ++i) {
        T value = 0, slope = 0;
        for (size_t k = 0; k <= last; ++k) {
            const T share = (k == 0 || k == last ? T(0.5) : T(1)) / last;
            const T soft = sigmoid((positives.score[i] - band.knots[k]) / band.tau);
            value += share * soft;
            slope += share * soft * (1 - soft);
        }
        sums.value += static_cast<double>(value) * positives.weight[i];
        if (i < positives.live) sums.positive[i] = slope;
    }
    return sums;
}

}  // namespace pauc
