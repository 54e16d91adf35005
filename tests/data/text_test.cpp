#include <gtest/gtest.h>

#include "base/error.h"
#include "data/json_line.h"
#include "data/utf8.h"
#include "folder.h"

namespace weft::data {
namespace {

std::string clean(std::string_view s, int64_t want_replaced) {
  std::string out;
  EXPECT_EQ(append_clean_utf8(s, out), want_replaced) << out;
  return out;
}

TEST(Utf8, ReplacesMaximalIllFormedParts) {
  const std::string r = "\xEF\xBF\xBD";
  EXPECT_EQ(clean("plain ascii, long enough for a word", 0), "plain ascii, long enough for a word");
  EXPECT_EQ(clean("\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", 0), "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80");
  EXPECT_EQ(clean("a\x80z", 1), "a" + r + "z");
  EXPECT_EQ(clean("a\xC0\xAFz", 2), "a" + r + r + "z");                // overlong
  EXPECT_EQ(clean("a\xED\xA0\x80z", 3), "a" + r + r + r + "z");        // surrogate
  EXPECT_EQ(clean("a\xE2\x82", 1), "a" + r);                           // cut off: one part
  EXPECT_EQ(clean("a\xF0\x9F\x98z", 1), "a" + r + "z");
  EXPECT_EQ(clean("\xF4\x90\x80\x80", 4), r + r + r + r);              // above U+10FFFF
  EXPECT_EQ(clean(std::string("nul\0in", 6), 0), std::string("nul\0in", 6));
}

JsonText member(std::string_view line) { return json_text_member(line, "text", "f line 1"); }
std::string refused(const std::string& line) { return error_of<InputError>([&] { member(line); }); }

TEST(JsonLine, FindsTheMemberAndUnescapes) {
  EXPECT_EQ(member(R"({"text":"a\"\\\/\b\f\n\r\tz"})").text, "a\"\\/\b\f\n\r\tz");
  EXPECT_EQ(member(R"( { "id" : 1.5e-3 , "text" : "x" , "meta":{"a":[1,true,null,{"text":"no"}]} } )").text, "x");
  EXPECT_EQ(member(R"({"text":"\u00e9\u20ac\ud83d\ude00"})").text, "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80");
  EXPECT_EQ(member(R"({"text":"a\u0000b"})").text, std::string("a\0b", 3));
  EXPECT_FALSE(member(R"({"other":"x"})").found);
  EXPECT_FALSE(member("{}").found);
  EXPECT_EQ(json_raw_member(R"({"a":[1, {"b":2}],"c":3})", "a", "f"), R"([1, {"b":2}])");
}

TEST(JsonLine, LoneSurrogatesAndBadBytesAreCounted) {
  const JsonText a = member(R"({"text":"\ud800x\udc00\ud800A"})");
  EXPECT_EQ(a.replacements, 3);
  EXPECT_EQ(a.text, "\xEF\xBF\xBDx\xEF\xBF\xBD\xEF\xBF\xBD" "A");
  EXPECT_EQ(member("{\"text\":\"\xFF\"}").replacements, 1);
}

TEST(JsonLine, RefusesBadJsonWithTheColumn) {
  EXPECT_NE(refused("[1]").find("want an object"), std::string::npos);
  EXPECT_NE(refused(R"({"text":"a")").find("column 12"), std::string::npos) << refused(R"({"text":"a")");
  EXPECT_NE(refused(R"({"text":"a"} x)").find("after the object"), std::string::npos);
  EXPECT_NE(refused(R"({"text":"a","text":"b"})").find("duplicate key"), std::string::npos);
  EXPECT_NE(refused(R"({"text":7})").find("is no string"), std::string::npos);
  EXPECT_NE(refused("{\"text\":\"a\nb\"}").find("control character"), std::string::npos);
  EXPECT_NE(refused(R"({"text":"\x"})").find("want an escape"), std::string::npos);
  EXPECT_NE(refused(R"({"text":"\u12g4"})").find("hexadecimal"), std::string::npos);
  EXPECT_NE(refused(R"({"text":"abc)").find("does not end"), std::string::npos);
  EXPECT_NE(refused(R"({"a":01,"text":"b"})").find("column 7"), std::string::npos) << refused(R"({"a":01,"text":"b"})");
  EXPECT_NE(refused(R"({"a":tru,"text":"b"})").find("want a value"), std::string::npos);
  EXPECT_NE(refused("{\"a\":" + std::string(70, '[') + std::string(70, ']') + "}").find("64 levels"), std::string::npos);
  EXPECT_NE(refused("").find("the end"), std::string::npos);
}

}  // namespace
}  // namespace weft::data
