// Whether the loops are compiled once more for processors with AVX2.

#pragma once

// Not under AddressSanitizer: to inline a whole step into one function takes it half an hour.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__SANITIZE_ADDRESS__)
#define PAUC_AVX2 1
#endif
