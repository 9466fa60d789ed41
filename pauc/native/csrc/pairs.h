// Sums of a link over the pairs of positives and band negatives of one class.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "band.h"
#include "surrogates.h"

namespace pauc {

constexpr double LOG2 = 0.69314718055994530942;
// Distances in units of tau, from the band's lower edge.
constexpr double WIDEST = 30;      // band whose exponentials, and products of two, are in range
constexpr double FAR_BELOW = -16;  // down to here, exp(-u) is that of two numbers in range
constexpr double MOST_PRODUCT = 1e240;  // three more terms of up to exp(WIDEST - FAR_BELOW) fit
constexpr int NODES_PER_TAU = 5;        // between them, cubic interpolation errs by less than 1e-6

constexpr double NOT_YET = std::numeric_limits<double>::quiet_NaN();

struct Link {
    double value, slope;
};

// The link of a positive `u` units of tau above a negative.
template <typename T>
Link link_of(T u, bool logistic) {
    const T small = std::exp(-std::abs(u));
    const T soft = (u >= 0 ? T(1) : small) / (1 + small),
            rest = (u >= 0 ? small : T(1)) / (1 + small);
    if (!logistic) return {soft, soft * rest};
    return {1 - (std::max(-u, T(0)) + std::log1p(small)) / LOG2, rest / LOG2};
}

template <typename T>
class PairSums {
  public:
    // `negatives` must outlive the sums.
    PairSums(const Negatives<T>& negatives, const Band<T>& band, bool logistic)
        : score_(negatives.score),
          by_negative_(negatives.row.size()),
          origin_(band.knots.back()),
          tau_(band.tau),
          logistic_(logistic) {
        for (size_t j = 0; j < score_.size(); ++j) {
            const T u = (score_[j] - origin_) / tau_;
            if (!(u <= WIDEST)) {
                far_.push_back(j);
                continue;
            }
            if (j < by_negative_.size()) live_.push_back(j);
            // exp(-u) is the product of a factor for either score: a pair needs no exponential.
            rising_.push_back(std::exp(u));
            width_ = std::max(width_, u);
        }
    }

    // About how many pairs `add` and `add_many` look at.
    double cost(size_t live, size_t others) const {
        const double near = static_cast<double>(rising_.size());
        const double singly = 16.0 * static_cast<double>(far_.size() * (live + others));
        if (others <= nodes()) return near * (live + others) + singly;
        return near * (live + nodes()) + static_cast<double>(live_.size() * others) + singly;
    }

    // The sum for a positive, and its slope by the positive's score in units of tau.
    Link add(T score, T weight) {
        const T u = (score - origin_) / tau_;
        if (logistic_ && u < FAR_BELOW) return add_singly(score, weight);
        const T fall = std::exp(-u);
        pull_negatives(fall, weight);
        const Link near = sum(fall), far = add_far(score, weight);
        return {near.value + far.value, near.slope + far.slope};
    }

    // The sum of the weighted sums for many positives.
    double add_many(const T* score, const T* weight, size_t count) {
        double total = 0;
        if (count <= nodes()) {
            for (size_t i = 0; i < count; ++i) total += weight[i] * add(score[i], weight[i]).value;
            return total;
        }
        table_.assign(nodes(), {NOT_YET, NOT_YET});
        for (size_t i = 0; i < count; ++i) {
            const T u = (score[i] - origin_) / tau_;
            pull_negatives(std::exp(-u), weight[i]);
            total += weight[i] * (look_up(u) + add_far(score[i], weight[i]).value);
        }
        return total;
    }

    // The slopes of all weighted sums so far by each live negative's score in units of tau, with
    // the sign turned.
    const std::vector<T>& by_negative() const { return by_negative_; }

  private:
    const std::vector<T>& score_;
    std::vector<T> by_negative_, rising_;  // rising: of the negatives that are not far
    std::vector<size_t> live_, far_;       // the first of those, live; those beyond WIDEST
    std::vector<Link> table_;
    T origin_, tau_, width_ = 0;
    bool logistic_;

    // Instead of an infinite z, where the sigmoid and its slope are 0.
    static constexpr T GREATEST = static_cast<T>(1e30);

    size_t nodes() const {
        return static_cast<size_t>((width_ - 2 * FAR_BELOW) * NODES_PER_TAU) + 2;
    }

    void add_pair(size_t j, T score, T weight, Link& total) {
        const Link one = link_of((score - score_[j]) / tau_, logistic_);
        total.value += one.value;
        total.slope += one.slope;
        if (j < by_negative_.size()) by_negative_[j] += weight * static_cast<T>(one.slope);
    }

    Link add_singly(T score, T weight) {
        Link total{0, 0};
        for (size_t j = 0; j < score_.size(); ++j) add_pair(j, score, weight, total);
        return total;
    }

    Link add_far(T score, T weight) {
        Link total{0, 0};
        for (size_t j : far_) add_pair(j, score, weight, total);
        return total;
    }

    // With z = exp(-u), the sigmoid is 1 / (1 + z), the logistic link 1 - log2(1 + z).
    void pull_negatives(T fall, T weight) {
        const T unit = logistic_ ? weight / static_cast<T>(LOG2) : weight;
        for (size_t k = 0; k < live_.size(); ++k) {  // the first of those that are not far
            const T z = fall * rising_[k], finite = std::min(z, GREATEST), soft = 1 / (1 + z);
            by_negative_[live_[k]] +=
                unit * (logistic_ ? finite / (1 + finite) : soft * (finite * soft));
        }
    }

    Link sum(T fall) const {
        const T* rising = rising_.data();
        const size_t count = rising_.size();
        T value = 0, slope = 0;
        if (logistic_) {
#pragma omp simd reduction(+ : slope)
            for (size_t j = 0; j < count; ++j) {
                const T z = fall * rising[j];
                slope += z / (1 + z);
            }
            return {count - log_of_product(fall) / LOG2, slope / LOG2};
        }
#pragma omp simd reduction(+ : value, slope)
        for (size_t j = 0; j < count; ++j) {
            const T z = fall * rising[j], soft = 1 / (1 + z);
            value += soft;
            slope += soft * (std::min(z, GREATEST) * soft);
        }
        return {value, slope};
    }

    // The sum of log(1 + z): terms are multiplied as long as that is in range.
    double log_of_product(T fall) const {
        constexpr size_t LANES = 4, TERMS = 3 * LANES;
        const double z = fall;
        double total = 0, product[LANES] = {1, 1, 1, 1};
        auto flush = [&] {
            for (double& lane : product) {
                total += std::log(lane);
                lane = 1;
            }
        };
        const T* rising = rising_.data();
        size_t j = 0;
        for (; j + TERMS <= rising_.size(); j += TERMS) {
            for (size_t k = 0; k < TERMS; ++k) product[k % LANES] *= 1 + z * rising[j + k];
            if (product[0] + product[1] + product[2] + product[3] > MOST_PRODUCT) flush();
        }
        flush();
        for (; j < rising_.size(); ++j) total += std::log1p(z * rising[j]);
        return total;
    }

    // A sum of the table, which goes from FAR_BELOW the band to as far above it.
    const Link& node(size_t k) {
        if (std::isnan(table_[k].value))
            table_[k] =
                sum(std::exp(-static_cast<T>(FAR_BELOW + static_cast<double>(k) / NODES_PER_TAU)));
        return table_[k];
    }

    double look_up(double u) {
        if (std::isnan(u)) return u;
        const double place = (u - FAR_BELOW) * NODES_PER_TAU;
        // Further below, links are straight lines, of which the sigmoid's is 0; above, they are 1.
        if (place < 0) return logistic_ ? node(0).value + node(0).slope * (u - FAR_BELOW) : 0;
        if (place >= static_cast<double>(table_.size() - 1))
            return static_cast<double>(rising_.size());
        const size_t k = static_cast<size_t>(place);
        const double t = place - static_cast<double>(k), rest = 1 - t;
        const Link &a = node(k), &b = node(k + 1);
        return rest * rest * ((1 + 2 * t) * a.value + t * a.slope / NODES_PER_TAU) +
               t * t * ((1 + 2 * rest) * b.value - rest * b.slope / NODES_PER_TAU);
    }
};

template <typename T>
Sums<T> pair_sums(const Positives<T>& positives, PairSums<T>& links) {
    Sums<T> sums;
    for (size_t i = 0; i < positives.live; ++i) {
        const Link one = links.add(positives.score[i], positives.weight[i]);
        sums.value += positives.weight[i] * one.value;
        sums.positive.push_back(static_cast<T>(one.slope));
    }
    const size_t live = positives.live;
    sums.value += links.add_many(
        positives.score.data() + live, positives.weight.data() + live, positives.score.size() - live
    );
    sums.negative = links.by_negative();
    return sums;
}

}  // namespace pauc
