// The order of many scores by their digits, in a third of the time that comparisons take.

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace pauc {

struct Keyed {
    uint64_t key;
    int64_t row;
};

// The bits of doubles are ordered as the doubles are, once all bits of a negative number and the
// sign of others are turned.
inline uint64_t key_of(double score) {
    uint64_t bits;
    std::memcpy(&bits, &score, sizeof bits);
    constexpr uint64_t sign = uint64_t(1) << 63;
    return bits & sign ? ~bits : bits | sign;
}

// Writes the rows in ascending order of their scores, none of which is nan; equal ones as they
// come.
inline void order_rows(const double* score, size_t rows, int64_t* order) {
    constexpr int bits = 11, passes = 6;
    constexpr size_t digits = size_t(1) << bits;
    const auto digit = [](uint64_t key, int pass) { return key >> (bits * pass) & (digits - 1); };
    std::vector<Keyed> from(rows), to(rows);
    std::vector<std::array<size_t, digits>> counts(passes);
    for (size_t i = 0; i < rows; ++i) {
        from[i] = {key_of(score[i]), static_cast<int64_t>(i)};
        for (int p = 0; p < passes; ++p) ++counts[p][digit(from[i].key, p)];
    }
    for (int p = 0; p < passes; ++p) {
        auto& place = counts[p];
        // Rounded scores share their last digits, and close ones the first.
        if (rows && place[digit(from[0].key, p)] == rows) continue;
        size_t begin = 0;
        for (size_t& count : place) {
            const size_t here = count;
            count = begin;
            begin += here;
        }
        for (const Keyed& keyed : from) to[place[digit(keyed.key, p)]++] = keyed;
        from.swap(to);
    }
    for (size_t i = 0; i < rows; ++i) order[i] = from[i].row;
}

}  // namespace pauc
