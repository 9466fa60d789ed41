// An exponential for loops over all rows.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace pauc {

// What `exp_of_minus` needs of a floating type. Added to a number, `round` leaves its nearest
// integer in the lowest bits; `most` is beyond where the result has fewer digits.
template <typename T>
struct Exp;
template <>
struct Exp<float> {
    using Bits = int32_t;
    static constexpr float round = 12582912, most = 87;
    static constexpr int digits = 23, degree = 7;
    static constexpr float log2_high = 0.693359375f, log2_low = -2.12194440e-4f;
};
template <>
struct Exp<double> {
    using Bits = int64_t;
    static constexpr double round = 6755399441055744, most = 708;
    static constexpr int digits = 52, degree = 13;
    static constexpr double log2_high = 0.693145751953125, log2_low = 1.42860682030941723212e-6;
};

// Returns exp(-x), 0 where x is nan or too large for it, and at most the largest that fits: by 2 to
// a whole number, times a Taylor series. Unlike `std::exp` it can be vectorised, for sums over all
// scores.
template <typename T>
inline T exp_of_minus(T x) {
    using E = Exp<T>;
    constexpr T one_over_log2 = static_cast<T>(1.44269504088896340736);
    const bool counts = x < E::most;
    const T near = counts ? (x > -E::most ? x : -E::most) : 0;
    const T shifted = E::round - near * one_over_log2, whole = shifted - E::round;
    const T rest = (-near - whole * E::log2_high) - whole * E::log2_low;
    T series = 1;
    for (int k = E::degree; k > 0; --k) series = 1 + series * rest * (T(1) / k);
    typename E::Bits bits, power;
    std::memcpy(&bits, &series, sizeof bits);
    std::memcpy(&power, &shifted, sizeof power);
    // The lowest bits of `shifted` go where the exponent stands; higher ones leave the number.
    using Unsigned = std::make_unsigned_t<typename E::Bits>;
    const Unsigned sum = static_cast<Unsigned>(bits) + (static_cast<Unsigned>(power) << E::digits);
    T result;
    std::memcpy(&result, &sum, sizeof result);
    return counts ? result : 0;
}

}  // namespace pauc
