// The positives and the band negatives of a class, and the surrogates that compare with knots.

#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "band.h"
#include "exponential.h"
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
    std::vector<int32_t> row;  // of the batch's alone, or of all that a sample is drawn from
    std::vector<T> count;      // how many rows each stands for; empty: for itself
    size_t live = 0;           // how many are the batch's
    double total = 0, live_total = 0;  // how many rows they are, and those of the batch
};

// What a surrogate adds up for one class. Slopes are derivatives by a score in units of tau.
template <typename T>
struct Sums {
    double value = 0;         // the sum of weighted contributions
    std::vector<T> positive;  // slope by each live positive's score, before its weight
    std::vector<T> negative;  // slope by each live negative's score, with the opposite sign
    std::vector<double> contribution;  // of each positive, before its weight; only if measured
};

// For loops over many scores.
template <typename T>
T sigmoid(T u) {
    return u == u ? 1 / (1 + exp_of_minus(u)) : u;
}

template <typename T>
Positives<T> gather_positives(const Step<T>& s, const Class<T>& c) {
    Positives<T> positives;
    positives.row = s.pool_numerator ? c.own : c.own.below(s.rows);
    positives.live = c.own.below(s.rows).size();
    const size_t count = positives.row.size();
    positives.score.resize(count);
    positives.weight.resize(count);
    for (size_t i = 0; i < count; ++i) {
        const int32_t row = positives.row.begin[i];
        positives.score[i] = i < positives.live ? c.live[row] : c.held[row - s.rows];
        positives.weight[i] = s.weight_of(row);
    }
    double live = 0, held = 0;
    const T* weight = positives.weight.data();
#pragma omp simd reduction(+ : live)
    for (size_t i = 0; i < positives.live; ++i) live += weight[i];
#pragma omp simd reduction(+ : held)
    for (size_t i = positives.live; i < count; ++i) held += weight[i];
    positives.live_total = live;
    positives.total = live + held;
    return positives;
}

// Returns the negatives in the band, iid or not. `window` is the band's, which serves, and so holds
// every reference score in the band; where all negatives are iid, those of the queue are read from
// it, unless their rows are `wanted`.
template <typename T>
Negatives<T> gather_negatives(
    const Step<T>& s, const Class<T>& c, const Band<T>& band, const Window<T>& window, bool wanted
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
    walk_batch(s, c, c.barred, collect);
    negatives.live = used;
    // Negatives that are not iid may be in the band, or positives in the window.
    if (wanted || s.population || c.hidden.size() > c.barred.size()) {
        walk_queue(s, c, c.barred, collect);
        negatives.score.resize(used);
    } else {  // all negatives are reference rows, and the window holds those in the band
        negatives.score.resize(used);
        for (size_t i = window.live; i < window.inside.size(); ++i)
            if (window.inside[i] > below && !(window.inside[i] > upper))
                negatives.score.push_back(window.inside[i]);
    }
    negatives.row.resize(wanted ? used : negatives.live);
    negatives.total = static_cast<double>(negatives.score.size());
    negatives.live_total = static_cast<double>(negatives.live);
    return negatives;
}

// Returns the positives that have been drawn, each with the weight of the rows that it stands for.
// `rows` must outlive them. The totals stay those of all.
template <typename T>
PAUC_APART Positives<T> drawn(
    const Positives<T>& all, const std::vector<T>& multiplicity, RowList& rows
) {
    Positives<T> kept = all;
    kept.score.clear();
    kept.weight.clear();
    rows.clear();
    kept.live = 0;
    for (size_t i = 0; i < all.score.size(); ++i) {
        const int32_t row = all.row.begin[i];
        if (multiplicity[row] == 0) continue;
        rows.push_back(row);
        kept.score.push_back(all.score[i]);
        kept.weight.push_back(all.weight[i] * multiplicity[row]);
        kept.live += i < all.live;
    }
    kept.row = span_of(rows);
    return kept;
}

// Returns the negatives that have been drawn, with how many rows each stands for.
template <typename T>
PAUC_APART Negatives<T> drawn(const Negatives<T>& all, const std::vector<T>& multiplicity) {
    Negatives<T> kept;
    kept.total = all.total;
    kept.live_total = all.live_total;
    for (size_t j = 0; j < all.score.size(); ++j) {
        const T count = multiplicity[all.row[j]];
        if (count == 0) continue;
        kept.score.push_back(all.score[j]);
        kept.row.push_back(all.row[j]);
        kept.count.push_back(count);
        kept.live += j < all.live;
    }
    return kept;
}

// Returns what part of a contribution rests on each knot: the composite trapezoid rule over the
// band, or the band's lower edge alone.
template <typename T>
std::vector<T> shares_of_knots(const Step<T>& s) {
    const Size last = s.num_knots - 1;
    std::vector<T> shares(s.num_knots, s.surrogate == RECALL ? 0 : T(1) / static_cast<T>(last));
    if (s.surrogate == RECALL) {
        shares[last] = 1;
    } else {
        shares[0] = shares[last] = T(0.5) / static_cast<T>(last);
    }
    return shares;
}

// Returns the sums of the soft TPR over the knots, by their shares.
template <typename T>
Sums<T> knot_sums(
    const Step<T>& s,
    const Positives<T>& positives,
    const Band<T>& band,
    const std::vector<T>& shares
) {
    const size_t count = positives.score.size();
    std::vector<T> value(count), slope(count);
    for (size_t k = 0; k < shares.size(); ++k) {
        if (shares[k] == 0) continue;
        for (size_t i = 0; i < count; ++i) {
            const T soft = sigmoid((positives.score[i] - band.knots[k]) / band.tau);
            value[i] += shares[k] * soft;
            slope[i] += shares[k] * soft * (1 - soft);
        }
    }
    Sums<T> sums;
    double total = 0;
#pragma omp simd reduction(+ : total)
    for (size_t i = 0; i < count; ++i) total += static_cast<double>(value[i]) * positives.weight[i];
    sums.value = total;
    sums.positive.assign(slope.begin(), slope.begin() + positives.live);
    if (s.measured) sums.contribution.assign(value.begin(), value.end());
    return sums;
}

}  // namespace pauc
