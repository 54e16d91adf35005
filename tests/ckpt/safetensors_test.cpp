#include "ckpt/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/error.h"
#include "folder.h"

namespace weft::ckpt {
namespace {

const std::string kPython = std::string(WEFT_SOURCE_DIR) + "/tests/ckpt/data/python.safetensors";

std::string with_header(const std::string& json, size_t data_bytes) {
  const uint64_t n = json.size();
  std::string s(reinterpret_cast<const char*>(&n), 8);
  return s + json + std::string(data_bytes, '\0');
}

std::string refusal(const std::string& content) {
  const TempFolder dir;
  write_file_atomic(dir.path + "/x", content);
  try {
    SafetensorsFile f(dir.path + "/x");
  } catch (const InputError& e) {
    return e.what();
  }
  return "taken";
}

}  // namespace

TEST(Safetensors, ReadsWhatThePythonPackageWrote) {
  const SafetensorsFile f(kPython);
  EXPECT_EQ(f.tensors().size(), 8u);
  EXPECT_EQ(f.metadata(), (Metadata{{"format", "pt"}}));
  const StoredTensor* w = f.find("layers.0.norm.weight");
  ASSERT_NE(w, nullptr);
  EXPECT_EQ(w->dtype, DType::kF32);
  EXPECT_EQ(w->shape, (std::vector<int64_t>{3}));
  float v[3];
  std::memcpy(v, f.data(*w).data(), sizeof v);
  EXPECT_EQ(v[1], -2.5f);
  EXPECT_EQ(f.find("nothing"), nullptr);
  EXPECT_EQ(f.find("empty")->bytes, 0);
}

TEST(Safetensors, WritesTheSameBytesAsThePythonPackage) {
  const SafetensorsFile f(kPython);
  std::vector<StoredTensor> tensors(f.tensors().rbegin(), f.tensors().rend());
  const SafetensorsLayout layout(tensors, f.metadata());
  std::string out = layout.header();
  for (const StoredTensor& t : layout.tensors()) {
    EXPECT_EQ(t.offset, static_cast<int64_t>(out.size()));
    const auto data = f.data(*f.find(t.name));
    out.append(reinterpret_cast<const char*>(data.data()), data.size());
  }
  EXPECT_EQ(static_cast<int64_t>(out.size()), layout.file_bytes());
  EXPECT_TRUE(out == read_file(kPython));
}

TEST(Safetensors, RefusesEveryBreachOfTheFormatWithItsReason) {
  const std::string one = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  EXPECT_EQ(refusal(with_header(one, 8)), "taken");
  const std::pair<std::string, const char*> cases[] = {
      {"abc", "at least 8"},
      {with_header(one, 9), "the header describes"},
      {with_header(one, 7), "the header describes"},
      {std::string("\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10), "at most"},
      {with_header(one, 8).substr(0, 30), "header length"},
      {with_header("[]", 0), "start with"},
      {with_header(" {}", 0), "start with"},
      {with_header(R"({"a":1})", 0), "want an object"},
      {with_header(R"({"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}})", 8), "unknown dtype"},
      {with_header(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8), "want 0 to"},
      {with_header(R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", 8), "integer"},
      {with_header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4), "want 8 bytes"},
      {with_header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8), "want 8 bytes"},
      {with_header(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})", 0), "too large"},
      {with_header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12), "a hole"},
      {with_header(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})", 6), "overlap"},
      {with_header(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", 2), "twice"},
      {with_header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}})", 8), "unknown key"},
      {with_header(R"({"__metadata__":{"a":1}})", 0), "not a string"},
      {with_header(R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}})", 2), "do not fill bytes"}};
  for (const auto& [content, why] : cases) EXPECT_NE(refusal(content).find(why), std::string::npos) << why << ": " << refusal(content);
}

TEST(Safetensors, NoCutAndNoChangedByteEndsInAnythingButARefusalOrAReading) {
  const std::string good = read_file(kPython);
  for (size_t n = 0; n < good.size(); ++n) EXPECT_NE(refusal(good.substr(0, n)), "taken") << n;
  for (size_t i = 0; i < good.size(); ++i)
    for (int bit : {0, 3, 7}) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ (1 << bit));
      refusal(bad);  // any other exception, or a fault, fails the test
    }
}

}  // namespace weft::ckpt
