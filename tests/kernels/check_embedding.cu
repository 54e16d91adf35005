#include <cmath>

#include "check.h"
#include "kernels/embedding/embedding.h"
#include "kernels/ngram/ngram.h"
#include "kernels/xent/xent.h"

namespace weft::check {
namespace {

using namespace kernels;
using Values = std::vector<double>;

void embedding(Checker& checker, int64_t tokens, int64_t vocab, int dim, int skew, DType t) {
  const std::string shape =
      std::to_string(tokens) + "of" + std::to_string(vocab) + "x" + std::to_string(dim) + "/skew" + std::to_string(skew);
  Case fwd(checker, "embedding_fwd", shape, t), bwd(checker, "embedding_bwd", shape, t);
  for (int seed = 1; seed <= (checker.options().small ? 1 : 3); ++seed) {
    Random random(seed);
    const int64_t begin = 5;
    Array table = Array::normal(random, vocab * dim, t), dy = Array::normal(random, tokens * dim, t),
          dtable_a = Array::normal(random, vocab * dim, DType::kF32);
    Values ids(tokens), y(tokens * dim), dtable = dtable_a.start();
    for (int64_t i = 0; i < tokens; ++i) {  // some ids belong to other ranks; with skew most are the same
      ids[i] = skew > 0 && random.below(10) < skew ? static_cast<double>(begin + vocab / 2)
                                                   : static_cast<double>(random.below(vocab + 10));
      const int64_t row = static_cast<int64_t>(ids[i]) - begin;
      if (row < 0 || row >= vocab) continue;
      for (int d = 0; d < dim; ++d) y[i * dim + d] = table[row * dim + d], dtable[row * dim + d] += dy[i * dim + d];
    }
    Array ids_a = Array::of(ids, DType::kI64), y_a = Array::poison(tokens * dim, t);
    EmbeddingFwd f{table.data(), ids_a.as<int64_t>(), y_a.data(), tokens, begin, vocab, dim, t};
    if (fwd.run(supports_embedding_fwd_sm90(f, checker.device()), 0, [&](const Launch& l) { embedding_fwd_sm90(f, l); }, {&y_a}))
      fwd.expect("y", y_a, y, kExact);
    EmbeddingBwd b{dy.data(), ids_a.as<int64_t>(), dtable_a.as<float>(), tokens, begin, vocab, dim, t};
    if (bwd.run(supports_embedding_bwd_sm90(b, checker.device()), workspace_embedding_bwd_sm90(b),
                [&](const Launch& l) { embedding_bwd_sm90(b, l); }, {&dtable_a}))
      bwd.expect("dtable", dtable_a, dtable, {1e-5, 1e-5});
  }
}

const int64_t kPrimes[16] = {499801, 499819, 499853, 499879, 499883, 499897, 499903, 499927,
                             499943, 499957, 499969, 499973, 499979, 500009, 500029, 500041};

void ngram(Checker& checker, bool golden, bool documents, DType t) {
  Case c(checker, "ngram", golden ? "golden" : documents ? "documents" : "random", t);
  Random random(7);
  const int tables = 16, dim = golden ? 0 : 16;
  const int64_t tokens = golden ? 5 : 301;
  Values ids(tokens), mult(48), bias(16), prime(16), offset(16), order(16);
  int64_t total = 0;
  for (int i = 0; i < 16; ++i) {
    prime[i] = golden ? kPrimes[i] : 11 + 2 * i, offset[i] = static_cast<double>(total), total += static_cast<int64_t>(prime[i]),
    order[i] = i < 8 ? 2 : 3;
    bias[i] = static_cast<double>(golden ? (2246822519ull * (i + 1)) % (1ull << 31) : random.bits() % (1ull << 31));
    for (int j = 0; j < 3; ++j)
      mult[i * 3 + j] =
          static_cast<double>((golden ? (2654435761ull * (3 * i + j + 1)) % (1ull << 31) : random.bits() % (1ull << 31)) | 1);
  }
  if (golden)
    ids = {0, 1, 65535, 17, 4242};
  else
    for (double& v : ids) v = static_cast<double>(random.below(65536));
  const Values cu = {0, 1, 1, 100, 101, 103, 301};
  Values rows(tokens * tables), e(tokens * tables * dim);
  Array table = Array::normal(random, golden ? 1 : total * dim, t);
  const int64_t held = golden ? 0 : total - total / 8;  // rows beyond give zeros
  int64_t sum = 0;
  for (int64_t i = 0; i < tokens; ++i)
    for (int k = 0; k < tables; ++k) {
      int64_t start = 0;
      if (documents)
        for (double b : cu)
          if (b <= i) start = static_cast<int64_t>(b);
      uint64_t h = static_cast<uint64_t>(bias[k]);
      for (int j = 0; j < order[k]; ++j)
        h ^= static_cast<uint64_t>(mult[k * 3 + j]) * (i - j >= start ? static_cast<uint64_t>(ids[i - j]) : 0);
      const int64_t row = static_cast<int64_t>(offset[k]) + static_cast<int64_t>(h % static_cast<uint64_t>(prime[k]));
      rows[i * tables + k] = static_cast<double>(row), sum += row;
      for (int d = 0; d < dim && row < held; ++d) e[(i * tables + k) * dim + d] = table[row * dim + d];
    }
  if (golden)  // the specification's figures
    c.expect_true("golden rows of the host",
                  rows[0] == 378273 && rows[15] == 7790459 && rows[4 * 16 + 15] == 7777530 && sum == 320076466);
  Array ids_a = Array::of(ids, DType::kI64), mult_a = Array::of(mult, DType::kI64), bias_a = Array::of(bias, DType::kI64),
        prime_a = Array::of(prime, DType::kI64), offset_a = Array::of(offset, DType::kI64),
        order_a = Array::of(order, DType::kI32), cu_a = Array::of(cu, DType::kI32),
        rows_a = Array::poison(tokens * tables, DType::kI64), e_a = Array::poison(tokens * tables * dim, t);
  NgramFwd f{ids_a.as<int64_t>(),
             documents ? cu_a.as<int32_t>() : nullptr,
             mult_a.as<int64_t>(),
             bias_a.as<int64_t>(),
             prime_a.as<int64_t>(),
             offset_a.as<int64_t>(),
             order_a.as<int32_t>(),
             golden ? nullptr : table.data(),
             rows_a.as<int64_t>(),
             e_a.data(),
             tokens,
             6,
             tables,
             3,
             dim,
             t,
             held};
  if (c.run(supports_ngram_fwd_sm90(f, checker.device()), 0, [&](const Launch& l) { ngram_fwd_sm90(f, l); }, {&rows_a, &e_a}))
    c.expect("rows", rows_a, rows, kExact), c.expect("e", e_a, e, kExact);
}

void xent(Checker& checker, int64_t rows, int vocab, int tile, double scale, double smoothing, DType t) {
  const std::string shape = std::to_string(rows) + "x" + std::to_string(vocab) + "/tile" + std::to_string(tile) + "/scale" +
                            std::to_string(static_cast<int>(scale)) + (smoothing > 0 ? "/smooth" : "");
  Case fwd(checker, "xent_loss", shape, t), bwd(checker, "xent_grad", shape, t);
  for (int seed = 1; seed <= (checker.options().small ? 1 : 3); ++seed) {
    Random random(seed);
    const int64_t stride = vocab + (vocab % 8 == 0 ? 8 : 0), ignore = -100;
    Array z = Array::normal(random, rows * stride, t, scale), g = Array::normal(random, rows, DType::kF32),
          glse = Array::normal(random, rows, DType::kF32, 0.1);
    Values labels(rows), lse(rows), loss(rows), best(rows), d(rows * stride);
    Values g0 = g.start(), gl0 = glse.start();
    for (int64_t r = 0; r < rows; ++r) {
      labels[r] = r % 5 == 2 ? static_cast<double>(ignore) : static_cast<double>(random.below(vocab));
      if (r == 0) g0[r] = 0;                               // a first weight of zero must not spread
      if (labels[r] == ignore) g0[r] = NAN, gl0[r] = NAN;  // gradients of ignored rows are not read
      double top = -INFINITY, sum = 0, all = 0;
      for (int c = 0; c < vocab; ++c)
        if (z[r * stride + c] > top) top = z[r * stride + c], best[r] = c;
      for (int c = 0; c < vocab; ++c) sum += std::exp(z[r * stride + c] - top), all += z[r * stride + c];
      lse[r] = top + std::log(sum);
      for (int64_t c = 0; c < stride; ++c) {
        const double v = z[r * stride + c];
        d[r * stride + c] = c >= vocab            ? v
                            : labels[r] == ignore ? 0
                                                  : (g0[r] + gl0[r]) * std::exp(v - lse[r]) - g0[r] * smoothing / vocab -
                                                        (labels[r] == c ? g0[r] * (1 - smoothing) : 0);
      }
      loss[r] = labels[r] == ignore
                    ? 0
                    : lse[r] - (1 - smoothing) * z[r * stride + static_cast<int64_t>(labels[r])] - smoothing * all / vocab;
    }
    g = Array::of(g0, DType::kF32), glse = Array::of(gl0, DType::kF32);
    Array labels_a = Array::of(labels, DType::kI64), max = Array::poison(rows, DType::kF32),
          sum = Array::poison(rows, DType::kF32), target = Array::poison(rows, DType::kF32),
          all = Array::poison(rows, DType::kF32), best_a = Array::poison(rows, DType::kI32),
          lse_a = Array::poison(rows, DType::kF32), loss_a = Array::poison(rows, DType::kF32);
    const size_t size = bits(t) / 8;
    Support ok{};
    auto forward = [&](const Launch& l) {
      for (int c = 0; c < vocab; c += tile) {
        XentTile a{z.as<char>() + c * size,
                   labels_a.as<int64_t>(),
                   max.as<float>(),
                   sum.as<float>(),
                   target.as<float>(),
                   all.as<float>(),
                   best_a.as<int32_t>(),
                   rows,
                   stride,
                   c,
                   std::min(tile, vocab - c),
                   c == 0,
                   t};
        ok = supports_xent_tile_sm90(a, checker.device());
        xent_tile_sm90(a, l);
      }
      XentLoss a{labels_a.as<int64_t>(),
                 max.as<float>(),
                 sum.as<float>(),
                 target.as<float>(),
                 all.as<float>(),
                 lse_a.as<float>(),
                 loss_a.as<float>(),
                 rows,
                 vocab,
                 ignore,
                 static_cast<float>(smoothing)};
      xent_loss_sm90(a, l);
    };
    if (fwd.run(ok, 0, forward, {&max, &sum, &target, &all, &best_a, &lse_a, &loss_a})) {
      fwd.expect("lse", lse_a, lse, {2e-6, 2e-6}), fwd.expect("best", best_a, best, kExact);
      fwd.expect("loss", loss_a, loss, {5e-6, 5e-6});
    }
    Array lse_in = Array::of(lse, DType::kF32);
    for (int64_t r = 0; r < rows; ++r)  // the gradient of the rounded lse that the kernel is given
      for (int64_t c = 0; c < vocab; ++c)
        if (labels[r] != ignore)
          d[r * stride + c] = (g0[r] + gl0[r]) * std::exp(z[r * stride + c] - lse_in[r]) - g0[r] * smoothing / vocab -
                              (labels[r] == c ? g0[r] * (1 - smoothing) : 0);
    Array dz = Array::of(z.start(), t);
    auto backward = [&](const Launch& l) {
      for (int c = 0; c < vocab; c += tile) {
        XentGrad a{dz.as<char>() + c * size,
                   labels_a.as<int64_t>(),
                   lse_in.as<float>(),
                   g.as<float>(),
                   glse.as<float>(),
                   dz.as<char>() + c * size,
                   rows,
                   stride,
                   c,
                   vocab,
                   ignore,
                   std::min(tile, vocab - c),
                   static_cast<float>(smoothing),
                   t};
        ok = supports_xent_grad_sm90(a, checker.device());
        xent_grad_sm90(a, l);
      }
    };
    if (bwd.run(ok, 0, backward, {&dz})) bwd.expect("dlogits", dz, d, t == DType::kBf16 ? rounded(t) : Tolerance{3e-5, 2e-6});
  }
}

// Kept to rounding: nothing changes. Broken in one row, by a factor, by a NaN: dx is NaN, and dw where it begins.
void promise(Checker& checker, int64_t rows, int64_t elements, DType t) {
  Random random(rows);
  const Array dx = Array::normal(random, elements, t), dw = Array::normal(random, 5, DType::kF32), promised = Array::normal(random, rows, DType::kF32);
  for (const char* how : {"kept", "one row", "scaled", "NaN"}) {
    const bool kept = how[0] == 'k';
    Case c(checker, "xent_promise", std::to_string(rows) + "/" + how, t);
    Values given = promised.start(), dx_after = dx.start(), dw_after = dw.start();
    for (int64_t r = 0; r < rows; ++r) given[r] *= how[0] == 's' ? 2 : 1 + 1e-6;
    if (how[0] == 'o') given[rows - 1] += 1e-3 * (1 + std::abs(given[rows - 1]));
    if (how[0] == 'N') given[rows / 2] = NAN;
    if (!kept) dx_after.assign(dx_after.size(), NAN), dw_after[0] = NAN;
    const Array given_a = Array::of(given, DType::kF32);
    Array broken = Array::poison(1, DType::kI32), dx_a = Array::of(dx.start(), t), dw_a = Array::of(dw.start(), DType::kF32);
    const XentPromise a{given_a.as<float>(), promised.as<float>(), broken.as<int32_t>(), dx_a.data(), dw_a.as<float>(), rows, elements, t};
    if (!c.run(supports_xent_promise_sm90(a, checker.device()), 0, [&](const Launch& l) { xent_promise_sm90(a, l); }, {&broken, &dx_a, &dw_a})) continue;
    c.expect("broken", broken, {kept ? 0.0 : 1.0}, kExact);
    c.expect("dx", dx_a, dx_after, kExact), c.expect("dw", dw_a, dw_after, kExact);
  }
}

void perfs(Checker& checker) {
  const DType t = DType::kBf16;
  if (checker.wants("embedding")) {
    const int64_t tokens = 65536, vocab = 131072;
    DeviceRandom table(vocab * 4096, t), y(tokens * 4096, t), ids(tokens, DType::kI64, 0, vocab),
        dtable(vocab * 4096, DType::kF32);
    EmbeddingFwd f{table.data(), ids.as<int64_t>(), y.data(), tokens, 0, vocab, 4096, t};
    perf(checker, "embedding_fwd", "65536of131072x4096", t, 4.0 * tokens * 4096, 0,
         [&](const Launch& l) { embedding_fwd_sm90(f, l); });
    EmbeddingBwd b{y.data(), ids.as<int64_t>(), dtable.as<float>(), tokens, 0, vocab, 4096, t};
    const double distinct = vocab * (1 - std::pow(1 - 1.0 / vocab, static_cast<double>(tokens)));
    perf(checker, "embedding_bwd", "65536of131072x4096", t, 2.0 * tokens * 4096 + 8 * distinct * 4096,
         workspace_embedding_bwd_sm90(b), [&](const Launch& l) { embedding_bwd_sm90(b, l); });
    DeviceRandom few(tokens, DType::kI64, 0, 300);
    b.ids = few.as<int64_t>();
    perf(checker, "embedding_bwd", "65536of300x4096", t, 2.0 * tokens * 4096 + 8.0 * 300 * 4096, workspace_embedding_bwd_sm90(b),
         [&](const Launch& l) { embedding_bwd_sm90(b, l); });
  }
  if (checker.wants("ngram")) {
    const int64_t tokens = 262144, rows = 7998862;
    DeviceRandom table(rows * 16, t), ids(tokens, DType::kI64, 0, 65536), e(tokens * 256, t), row(tokens * 16, DType::kI64),
        drows(rows * 16, DType::kF32);
    std::vector<double> mult(48), bias(16), prime(16), offset(16), order(16);
    double total = 0;
    for (int i = 0; i < 16; ++i)
      prime[i] = static_cast<double>(kPrimes[i]), offset[i] = total, total += prime[i], order[i] = i < 8 ? 2 : 3,
      bias[i] = 12345 * i;
    for (int i = 0; i < 48; ++i) mult[i] = static_cast<double>((2654435761ull * (i + 1)) % (1ull << 31) | 1);
    Array m = Array::of(mult, DType::kI64), b = Array::of(bias, DType::kI64), p = Array::of(prime, DType::kI64),
          o = Array::of(offset, DType::kI64), n = Array::of(order, DType::kI32);
    NgramFwd f{ids.as<int64_t>(),
               nullptr,
               m.as<int64_t>(),
               b.as<int64_t>(),
               p.as<int64_t>(),
               o.as<int64_t>(),
               n.as<int32_t>(),
               table.data(),
               row.as<int64_t>(),
               e.data(),
               tokens,
               0,
               16,
               3,
               16,
               t,
               rows};
    perf(checker, "ngram_fwd", "262144x16x16", t, tokens * 16.0 * (32 + 32 + 8), 0,
         [&](const Launch& l) { ngram_fwd_sm90(f, l); });
    EmbeddingBwd g{e.data(), row.as<int64_t>(), drows.as<float>(), tokens * 16, 0, rows, 16, t};
    const double distinct = rows * (1 - std::pow(1 - 1.0 / rows, tokens * 16.0));
    perf(checker, "ngram_bwd", "262144x16x16", t, tokens * 16.0 * (32 + 8) + distinct * 128, workspace_embedding_bwd_sm90(g),
         [&](const Launch& l) { embedding_bwd_sm90(g, l); });
  }
  if (checker.wants("xent")) {
    for (int64_t vocab : {int64_t{131072}, int64_t{4096}}) {
      const int64_t rows = vocab == 4096 ? 32768 : 8192;
      DeviceRandom z(rows * vocab, t, -5, 5), d(rows * vocab, t), labels(rows, DType::kI64, 0, static_cast<double>(vocab)),
          a(rows, DType::kF32), b(rows, DType::kF32), c(rows, DType::kF32), lse(rows, DType::kF32, 12, 13);
      const std::string s = std::to_string(rows) + "x" + std::to_string(vocab);
      XentTile f{z.data(),
                 labels.as<int64_t>(),
                 a.as<float>(),
                 b.as<float>(),
                 c.as<float>(),
                 nullptr,
                 nullptr,
                 rows,
                 vocab,
                 0,
                 static_cast<int32_t>(vocab),
                 true,
                 t};
      perf(checker, "xent_tile", s, t, 2.0 * rows * vocab, 0, [&](const Launch& l) { xent_tile_sm90(f, l); });
      XentGrad g{z.data(),
                 labels.as<int64_t>(),
                 lse.as<float>(),
                 a.as<float>(),
                 nullptr,
                 d.data(),
                 rows,
                 vocab,
                 0,
                 vocab,
                 -100,
                 static_cast<int32_t>(vocab),
                 0,
                 t};
      perf(checker, "xent_grad", s, t, 4.0 * rows * vocab, 0, [&](const Launch& l) { xent_grad_sm90(g, l); });
    }
    DeviceRandom given(32768, DType::kF32), dx(int64_t{32768} * 4096, t), broken(1, DType::kI32);
    const XentPromise kept{given.as<float>(), given.as<float>(), broken.as<int32_t>(), dx.data(), nullptr, 32768, int64_t{32768} * 4096, t};
    perf(checker, "xent_promise", "32768x4096", t, 8.0 * 32768, 0, [&](const Launch& l) { xent_promise_sm90(kept, l); });
  }
}

}  // namespace

void check_embedding(Checker& checker) {
  if (checker.options().perf) return perfs(checker);
  for (DType t : {DType::kBf16, DType::kF32}) {
    if (checker.wants("embedding")) {
      for (int skew : {0, 9}) {
        embedding(checker, 100, 37, 24, skew, t), embedding(checker, 1000, 50, 16, skew, t),
            embedding(checker, 65, 300, 7, skew, t);
        embedding(checker, 33, 5, 1032, skew, t), embedding(checker, 0, 5, 8, skew, t), embedding(checker, 1, 1, 1, skew, t);
        if (!checker.options().small) embedding(checker, 5000, 1000, 64, skew, t), embedding(checker, 700, 3000, 1024, skew, t);
      }
    }
    if (checker.wants("ngram")) ngram(checker, true, false, t), ngram(checker, false, false, t), ngram(checker, false, true, t);
    if (checker.wants("xent")) {
      for (double smoothing : {0.0, 0.1}) {
        xent(checker, 7, 40, 40, 2, smoothing, t), xent(checker, 7, 101, 32, 2, smoothing, t),
            xent(checker, 3, 1200, 1200, 50, smoothing, t), xent(checker, 1, 2, 1, 1, smoothing, t);
        if (!checker.options().small)
          xent(checker, 33, 9000, 9000, 3, smoothing, t), xent(checker, 12, 9000, 4096, 300, smoothing, t);
      }
      xent(checker, 0, 8, 8, 1, 0, t);
      promise(checker, 1, 1, t), promise(checker, 1500, 2000, t);
    }
  }
}

}  // namespace weft::check
