#include "base/dtype.h"

#include <gtest/gtest.h>

namespace weft {

TEST(DType, BytesRoundUpWhereTwoElementsShareAByte) {
  EXPECT_EQ(bytes(DType::kF4E2M1, 3), 2u);
  EXPECT_EQ(bytes(DType::kBf16, 3), 6u);
  EXPECT_EQ(bytes(DType::kF64, 0), 0u);
  EXPECT_STREQ(name(DType::kF8E8M0), "f8e8m0");
}

}  // namespace weft
