// The positives and the band negatives of a class, and the trapezoid.

#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "band.h"
#include "rows.h"

namespace pauc {

// The positives of a class that its average is over.
template <typename T>
struct Positives {
    Span row;
    std::vector<T> score, weight;      // in the order of `row`
    size_t live;                       // how many of them are the batch's; these come first
    double total = 0, live_total = 0;  // their weight, and that of the live ones
};

// The negatives of a class in the band.
template <typename T>
struct Negatives {
    std::vector<T> score;      // the batch's first
    std::vector<int32_t> row;  // of the batch's alone
};

// What a surrogate adds up for one class. Slopes are derivatives by a score in units of tau.
template <typename T>
struct Sums {
    double value = 0;         // the sum of weighted contributions
    std::vector<T> positive;  // slope by each live positive's score, before its weight
    std::vector<T> negative;  // slope by each live negative's score, with the opposite sign
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

// Returns the negatives in the band, iid or not. `window` is the band's, which serves, and so holds
// every reference score in the band; where all negatives are iid, those of the queue are read from
// it.
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
    if (c.hidden.size() > c.barred.size()) {  // negatives that are not iid may be in the band
        for_each_block(c.held, s.rows, s.fill, c.barred, collect);
        negatives.score.resize(used);
    } else {  // all negatives are reference rows, and the window holds those in the band
        negatives.score.resize(live);
        for (size_t i = window.live; i < window.inside.size(); ++i)
            if (window.inside[i] > below && !(window.inside[i] > upper))
                negatives.score.push_back(window.inside[i]);
    }
    negatives.row.resize(live);
    return negatives;
}

// Returns the sums of the soft TPR over the knots, by the composite trapezoid rule over the band.
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
