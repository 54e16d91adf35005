// Read by structure_oracle.py, never compiled: many kinds of syntax in one file.
#include "base/text.h"
#define TWICE(x) ((x) + (x))
#define MAKE(name) int name() { return 1; }

namespace sample {
namespace {

enum class Colour { kRed, kGreen = 4 };
using Word = unsigned;
typedef int Whole;

template <class T, int N>
class Box : private Colourless {
 public:
  explicit Box(T value) : value_(value) {}
  virtual ~Box() { value_ = T(); }
  T get() const { return value_; }
  operator bool() const { return value_ != T{}; }
  friend bool same(const Box& a, const Box& b) { return a.value_ == b.value_; }

 private:
  T value_;  // one of N
};

struct Point {
  Whole x = 0, y = 0;
  int sum() const;
};
int Point::sum() const { return x + y; }

MAKE(made)

/* Above the
   function. */
[[nodiscard]] static int odd(int n);
[[maybe_unused]] static int even(int n) { return n == 0 ? 1 : odd(n - 1); }
static int odd(int n) { return n == 0 ? 0 : even(n - 1); }

}  // namespace

template <class T>
T largest(const T* begin, const T* end) {
  T best{};
  for (const T* p = begin; p != end; ++p) {
    if (*p > best) best = *p;
    else continue;
  }
  return best;
}

int work(int argc, const char* name) try {
  Point p{argc, 2};
  int values[3] = {1, 2, 3}, total = 0;
  auto add = [&](int v) { total += v; };
  for (int v : values) add(v);
  switch (argc) {
    case 1:
      total = TWICE(total);
      break;
    default: {
      while (total < 10) total <<= 1;
    }
  }
  const double d = 1.5 * static_cast<double>(p.sum());
  if (name == nullptr || name[0] == '\n' || !*name) throw 3;
  delete new Point{};
  return even(total) + largest(values, values + 3) + static_cast<int>(d) + made() + (name ? 1 : 0);
} catch (int) {
  return -1;
}

}  // namespace sample

extern "C" int main(int argc, char** argv) { return sample::work(argc, argv[0]); }
