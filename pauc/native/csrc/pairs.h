// Sums of a link over the pairs of positives and band negatives of one class.
//
// With u in units of tau from the band's lower edge, exp(-(u_i - u_j)) is exp(-u_i) * exp(u_j): one
// exponential for each score serves all pairs, as long as the factors are in range. Negatives out
// of that range (`far_`, outliers at the top) are taken pair by pair. Positives without a gradient,
// of which only a sum is wanted, are looked up in a table where they are many.

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
// Distances are in units of tau, from the band's lower edge.
constexpr double WIDEST = 30;  // up to here exp(u), and a product with exp(-FAR_BELOW), fit a float
constexpr double FAR_BELOW = -16;  // down to here exp(-u) does so
// A lane may take three more terms of up to exp(WIDEST - FAR_BELOW) before it leaves a double's
// range.
constexpr double MOST_PRODUCT = 1e240;
constexpr int NODES_PER_TAU = 5;  // between nodes, cubic interpolation errs by less than 1e-6

// The mark of a node of the table that has not been computed.
constexpr double NOT_YET = std::numeric_limits<double>::quiet_NaN();

// A link, or a sum of it, with its derivative by the positive's score in units of tau.
struct Link {
    double value, slope;
};

// Returns the link of a positive that is `u` units of tau above a negative.
template <typename T>
Link link_of(T u, bool logistic) {
    const T small = std::exp(-std::abs(u));
    const T soft = (u >= 0 ? T(1) : small) / (1 + small),
            rest = (u >= 0 ? small : T(1)) / (1 + small);
    if (!logistic) return {soft, soft * rest};
    return {1 - (std::max(-u, T(0)) + std::log1p(small)) / LOG2, rest / LOG2};
}

// Sums over the band negatives of one class, for positives that come one by one. It remembers what
// each positive adds to the gradient of the live negatives.
template <typename T>
class PairSums {
  public:
    // `negatives` must outlive this object, which reads their scores in place.
    PairSums(const Negatives<T>& negatives, const Band<T>& band, bool logistic)
        : score_(negatives.score),
          count_(negatives.count),
          by_negative_(negatives.live),
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
            rising_.push_back(std::exp(u));
            if (!count_.empty()) near_count_.push_back(count_[j]);
            near_total_ += count_of(j);
            width_ = std::max(width_, u);
        }
    }

    // Returns about how many pairs `add`, for the live positives, and `add_many`, for the others,
    // look at. A pair taken singly costs some sixteen.
    double cost(size_t live, size_t others) const {
        const double near = static_cast<double>(rising_.size());
        const double singly = 16.0 * static_cast<double>(far_.size() * (live + others));
        if (others <= nodes()) return near * (live + others) + singly;
        return near * (live + nodes()) + static_cast<double>(live_.size() * others) + singly;
    }

    // Returns the sum for a positive, and adds its weighted slopes to those of the live negatives.
    Link add(T score, T weight) {
        const T u = (score - origin_) / tau_;
        if (logistic_ && u < FAR_BELOW) return add_singly(score, weight);
        const T fall = std::exp(-u);
        pull_negatives(fall, weight);
        const Link near = sum(fall), far = add_far(score, weight);
        return {near.value + far.value, near.slope + far.slope};
    }

    // Calls `visit(i, sum)` with the sums for many positives, and adds their slopes likewise.
    template <typename Visit>
    void add_many(const T* score, const T* weight, size_t count, const Visit& visit) {
        if (count <= nodes()) {
            for (size_t i = 0; i < count; ++i) visit(i, add(score[i], weight[i]).value);
            return;
        }
        table_.assign(nodes(), {NOT_YET, NOT_YET});
        for (size_t i = 0; i < count; ++i) {
            const T u = (score[i] - origin_) / tau_;
            pull_negatives(std::exp(-u), weight[i]);
            visit(i, look_up(u) + add_far(score[i], weight[i]).value);
        }
    }

    // Returns the derivative of all weighted sums so far by each live negative's score in units of
    // tau, with the opposite sign.
    std::vector<T> by_negative() const {
        std::vector<T> slopes = by_negative_;
        for (size_t j = 0; j < slopes.size(); ++j) slopes[j] *= count_of(j);
        return slopes;
    }

  private:
    const std::vector<T>&score_, &count_;
    std::vector<T> by_negative_;      // [live negatives], each as one row
    std::vector<T> rising_;           // exp(u) of the negatives that are not far, in their order
    std::vector<T> near_count_;       // how many rows those stand for; empty: for themselves
    double near_total_ = 0;           // how many that is
    std::vector<size_t> live_, far_;  // the live negatives among those; the negatives beyond WIDEST
    std::vector<Link> table_;         // sums at the nodes, over the negatives that are not far
    T origin_, tau_, width_ = 0;
    bool logistic_;

    // Stands for an infinite z, where the sigmoid and its slope are 0 and not nan.
    static constexpr T GREATEST = static_cast<T>(1e30);

    // How many nodes reach from FAR_BELOW under the band to as far above it.
    size_t nodes() const {
        return static_cast<size_t>((width_ - 2 * FAR_BELOW) * NODES_PER_TAU) + 2;
    }

    T count_of(size_t j) const { return count_.empty() ? 1 : count_[j]; }

    void add_pair(size_t j, T score, T weight, Link& total) {
        const Link one = link_of((score - score_[j]) / tau_, logistic_);
        total.value += one.value * count_of(j);
        total.slope += one.slope * count_of(j);
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

    // Adds the slopes of one positive to the live negatives that are not far. With z = exp(-u), the
    // sigmoid is 1 / (1 + z), the logistic link 1 - log2(1 + z).
    void pull_negatives(T fall, T weight) {
        const T unit = logistic_ ? weight / static_cast<T>(LOG2) : weight;
        for (size_t k = 0; k < live_.size(); ++k) {  // live negatives come first in `rising_`, too
            const T z = fall * rising_[k], finite = std::min(z, GREATEST), soft = 1 / (1 + z);
            by_negative_[live_[k]] +=
                unit * (logistic_ ? finite / (1 + finite) : soft * (finite * soft));
        }
    }

    // Returns the sum over the negatives that are not far, for a positive with exp(-u) = `fall`.
    Link sum(T fall) const {
        if (!near_count_.empty()) return sum_of_counts(fall);
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

    // Returns the same where negatives stand for several rows each.
    Link sum_of_counts(T fall) const {
        Link total{logistic_ ? near_total_ : 0, 0};
        for (size_t j = 0; j < rising_.size(); ++j) {
            const T z = fall * rising_[j], soft = 1 / (1 + z), finite = std::min(z, GREATEST);
            const T fallen = logistic_ ? finite / (1 + finite) : soft * (finite * soft);
            const double value = logistic_ ? -std::log1p(static_cast<double>(z)) / LOG2 : soft;
            total.value += near_count_[j] * value;
            total.slope += near_count_[j] * (logistic_ ? fallen / LOG2 : fallen);
        }
        return total;
    }

    // Returns the sum of log(1 + z) with few logarithms: terms are multiplied as long as the
    // product is in range.
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

    // Returns a node of the table, computed when it is first asked for.
    const Link& node(size_t k) {
        if (std::isnan(table_[k].value))
            table_[k] =
                sum(std::exp(-static_cast<T>(FAR_BELOW + static_cast<double>(k) / NODES_PER_TAU)));
        return table_[k];
    }

    // Returns the sum for a positive at `u`, by cubic Hermite interpolation between two nodes.
    double look_up(double u) {
        if (std::isnan(u)) return u;
        const double place = (u - FAR_BELOW) * NODES_PER_TAU;
        // Below the table links are straight lines, the sigmoid's being 0; above it every link
        // is 1.
        if (place < 0) return logistic_ ? node(0).value + node(0).slope * (u - FAR_BELOW) : 0;
        if (place >= static_cast<double>(table_.size() - 1)) return near_total_;
        const size_t k = static_cast<size_t>(place);
        const double t = place - static_cast<double>(k), rest = 1 - t;
        const Link &a = node(k), &b = node(k + 1);
        return rest * rest * ((1 + 2 * t) * a.value + t * a.slope / NODES_PER_TAU) +
               t * t * ((1 + 2 * rest) * b.value - rest * b.slope / NODES_PER_TAU);
    }
};

// Returns the sums of a class: each live positive by itself, the others together.
template <typename T>
Sums<T> pair_sums(const Step<T>& s, const Positives<T>& positives, PairSums<T>& links) {
    Sums<T> sums;
    auto keep = [&](double one) {
        if (s.measured) sums.contribution.push_back(one);
    };
    for (size_t i = 0; i < positives.live; ++i) {
        const Link one = links.add(positives.score[i], positives.weight[i]);
        sums.value += positives.weight[i] * one.value;
        sums.positive.push_back(static_cast<T>(one.slope));
        keep(one.value);
    }
    const size_t live = positives.live;
    const T* weight = positives.weight.data() + live;
    const size_t held = positives.score.size() - live;
    double total = 0;
    links.add_many(positives.score.data() + live, weight, held, [&](size_t i, double one) {
        total += weight[i] * one;
        keep(one);
    });
    sums.value += total;
    sums.negative = links.by_negative();
    return sums;
}

}  // namespace pauc
