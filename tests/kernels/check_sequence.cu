#include <cmath>

#include "check.h"
#include "kernels/conv1d/conv1d.h"
#include "kernels/sample/sample.h"
#include "kernels/structure/structure.h"

namespace weft::check {
namespace {

using namespace kernels;
using Values = std::vector<double>;

double sigma(double x) { return 1 / (1 + std::exp(-x)); }

void conv1d(Checker& checker, const std::vector<int>& lengths, int channels, int width, bool silu, bool states, bool bias,
            int pad, DType t) {
  int64_t tokens = 0;
  Values cu = {0};
  for (int n : lengths) tokens += n, cu.push_back(static_cast<double>(tokens));
  const int documents = static_cast<int>(lengths.size());
  const std::string shape = std::to_string(documents) + "docs/" + std::to_string(tokens) + "x" + std::to_string(channels) + "/w" +
                            std::to_string(width) + (silu ? "/silu" : "") + (states ? "/states" : "") + (pad ? "/strided" : "");
  Case fwd(checker, "conv1d_fwd", shape, t), bwd(checker, "conv1d_bwd", shape, t), step(checker, "conv1d_step", shape, t);
  for (int seed = 1; seed <= (checker.options().small ? 1 : 3); ++seed) {
    Random random(seed);
    const int64_t stride = channels + pad, n = tokens * stride, m = static_cast<int64_t>(documents) * channels * (width - 1);
    Array x = Array::normal(random, n, t), w = Array::normal(random, channels * width, t, 0.5),
          b = Array::normal(random, channels, t), s0 = Array::normal(random, m, t), dy = Array::normal(random, n, t),
          ds1 = Array::normal(random, m, t), dw_a = Array::normal(random, channels * width, DType::kF32),
          db_a = Array::normal(random, channels, DType::kF32);
    Values y(n, std::nan("")), dx(n, std::nan("")), s1(m), ds0(m), dw = dw_a.start(), db = db_a.start();
    for (int64_t i = 0; i < tokens; ++i)
      for (int c = 0; c < channels; ++c) dx[i * stride + c] = 0;
    for (int d = 0; d < documents; ++d)
      for (int c = 0; c < channels; ++c) {
        const int64_t begin = static_cast<int64_t>(cu[d]), end = static_cast<int64_t>(cu[d + 1]),
                      base = (static_cast<int64_t>(d) * channels + c) * (width - 1);
        auto input = [&](int64_t at) {
          return at >= begin ? x[at * stride + c] : states ? s0[base + at - begin + width - 1] : 0;
        };
        auto add = [&](int64_t at, double g) { (at >= begin ? dx[at * stride + c] : ds0[base + at - begin + width - 1]) += g; };
        for (int64_t i = begin; i < end; ++i) {
          double a = bias ? b[c] : 0;
          for (int j = 0; j < width; ++j) a += w[c * width + j] * input(i - (width - 1) + j);
          const double s = sigma(a), g = dy[i * stride + c] * (silu ? s * (1 + a * (1 - s)) : 1);
          y[i * stride + c] = silu ? a * s : a;
          db[c] += g;
          for (int j = 0; j < width; ++j)
            add(i - (width - 1) + j, g * w[c * width + j]), dw[c * width + j] += g * input(i - (width - 1) + j);
        }
        for (int i = 0; i < width - 1; ++i) {
          s1[base + i] = input(end - (width - 1) + i);
          if (states) add(end - (width - 1) + i, ds1[base + i]);
        }
      }
    Array cu_a = Array::of(cu, DType::kI32), y_a = Array::poison(n, t), dx_a = Array::poison(n, t), s1_a = Array::poison(m, t),
          ds0_a = Array::poison(m, t);
    const int32_t* cut = documents > 1 ? cu_a.as<int32_t>() : nullptr;
    Conv1dFwd f{x.data(),
                w.data(),
                bias ? b.data() : nullptr,
                cut,
                states ? s0.data() : nullptr,
                y_a.data(),
                s1_a.data(),
                tokens,
                stride,
                stride,
                channels,
                width,
                documents,
                silu,
                t};
    if (fwd.run(supports_conv1d_fwd_sm90(f, checker.device()), 0, [&](const Launch& l) { conv1d_fwd_sm90(f, l); }, {&y_a, &s1_a}))
      fwd.expect("y", y_a, y, {rounded(t).relative, rounded(t).of_rms}), fwd.expect("final_state", s1_a, s1, kExact);
    Conv1dBwd g{dy.data(),
                x.data(),
                w.data(),
                f.bias,
                cut,
                f.initial_state,
                states ? ds1.data() : nullptr,
                dx_a.data(),
                dw_a.as<float>(),
                bias ? db_a.as<float>() : nullptr,
                states ? ds0_a.data() : nullptr,
                tokens,
                stride,
                stride,
                stride,
                channels,
                width,
                documents,
                silu,
                t};
    if (bwd.run(supports_conv1d_bwd_sm90(g, checker.device()), workspace_conv1d_bwd_sm90(g),
                [&](const Launch& l) { conv1d_bwd_sm90(g, l); }, {&dx_a, &dw_a, &db_a, &ds0_a})) {
      bwd.expect("dx", dx_a, dx, rounded(t)), bwd.expect("dw", dw_a, dw, kSums);
      if (bias) bwd.expect("dbias", db_a, db, kSums);
      if (states) bwd.expect("dinitial_state", ds0_a, ds0, rounded(t));
    }
    // Decode: rows 0.. use slots in reverse, the last is padding.
    const int64_t rows = documents;
    Array state = Array::of(s0.start(), t), slots_a = Array::of(
                                                [&] {
                                                  Values v(rows);
                                                  for (int64_t i = 0; i < rows; ++i)
                                                    v[i] = i == rows - 1 && rows > 1 ? -1 : static_cast<double>(rows - 1 - i);
                                                  return v;
                                                }(),
                                                DType::kI32);
    Array xr = Array::normal(random, rows * stride, t), yr = Array::poison(rows * channels, t);
    Values want(rows * channels), next = s0.start();
    for (int64_t i = 0; i < rows; ++i) {
      if (slots_a[i] < 0) continue;
      for (int c = 0; c < channels; ++c) {
        double* s = &next[(static_cast<int64_t>(slots_a[i]) * channels + c) * (width - 1)];
        double a = (bias ? b[c] : 0) + w[c * width + width - 1] * xr[i * stride + c];
        for (int j = 0; j < width - 1; ++j) a += w[c * width + j] * s[j];
        for (int j = 0; j + 1 < width - 1; ++j) s[j] = s[j + 1];
        s[width - 2] = xr[i * stride + c];
        want[i * channels + c] = silu ? a * sigma(a) : a;
      }
    }
    Conv1dStep st{xr.data(), w.data(), f.bias, slots_a.as<int32_t>(), state.data(), yr.data(), rows, stride, channels,
                  width,     silu,     t};
    if (step.run(supports_conv1d_step_sm90(st, checker.device()), 0, [&](const Launch& l) { conv1d_step_sm90(st, l); },
                 {&state, &yr}))
      step.expect("y", yr, want, rounded(t)), step.expect("state", state, next, kExact);
  }
}

void structure(Checker& checker, int64_t tokens, int dim, int num, DType t) {
  const std::string shape = std::to_string(tokens) + "x" + std::to_string(dim) + "/streams" + std::to_string(num);
  Case fwd(checker, "structure_fwd", shape, t), bwd(checker, "structure_bwd", shape, t);
  for (int seed = 1; seed <= (checker.options().small ? 1 : 3); ++seed) {
    Random random(seed);
    const int classes[8] = {9, 16, 20, 10, 64, 1, 3, 5};
    StructureStreams s{};
    s.num = num;
    int rows = 0;
    std::vector<Array> ids;
    for (int c = 0; c < num; ++c) {
      Values v(tokens);
      for (double& id : v) id = static_cast<double>(random.below(classes[c] + 4)) - 2;  // absent and too large ones as well
      ids.push_back(Array::of(v, DType::kI32));
      s.classes[c] = classes[c], rows += classes[c];
    }
    for (int c = 0; c < num; ++c) s.ids[c] = c == 2 ? nullptr : ids[c].as<int32_t>();
    Array table = Array::normal(random, rows * dim, t), scale = Array::normal(random, num, DType::kF32),
          dy = Array::normal(random, tokens * dim, t), dtable_a = Array::normal(random, rows * dim, DType::kF32),
          dscale_a = Array::normal(random, num, DType::kF32), y_a = Array::poison(tokens * dim, t);
    Values y(tokens * dim), dtable = dtable_a.start(), dscale = dscale_a.start();
    for (int64_t i = 0; i < tokens; ++i) {
      int offset = 0;
      for (int c = 0; c < num; offset += classes[c++]) {
        if (c == 2 || ids[c][i] < 0) continue;
        const int row = offset + static_cast<int>(std::min<double>(ids[c][i], classes[c] - 1));
        for (int d = 0; d < dim; ++d) {
          y[i * dim + d] += scale[c] * table[row * dim + d];
          dtable[row * dim + d] += scale[c] * dy[i * dim + d], dscale[c] += dy[i * dim + d] * table[row * dim + d];
        }
      }
    }
    StructureFwd f{s, table.data(), scale.as<float>(), y_a.data(), tokens, dim, t};
    if (fwd.run(supports_structure_fwd_sm90(f, checker.device()), 0, [&](const Launch& l) { structure_fwd_sm90(f, l); }, {&y_a}))
      fwd.expect("y", y_a, y, rounded(t));
    StructureBwd b{s, dy.data(), table.data(), scale.as<float>(), dtable_a.as<float>(), dscale_a.as<float>(), tokens, dim, t};
    if (bwd.run(supports_structure_bwd_sm90(b, checker.device()), workspace_structure_bwd_sm90(b),
                [&](const Launch& l) { structure_bwd_sm90(b, l); }, {&dtable_a, &dscale_a}))
      bwd.expect("dtable", dtable_a, dtable, kSums), bwd.expect("dscale", dscale_a, dscale, kSums);
  }
}

struct Settings {
  double temperature = 1, top_p = 1, min_p = 0, repetition = 1, presence = 0, frequency = 0;
  int top_k = 0;
};

void sample(Checker& checker, int64_t rows, int vocab, Settings s, bool ties, const char* label, DType t) {
  Case c(checker, "sample", std::to_string(rows) + "x" + std::to_string(vocab) + "/" + label, t);
  for (int seed = 1; seed <= (checker.options().small ? 1 : 3); ++seed) {
    Random random(seed);
    const int64_t stride = vocab + 8 - vocab % 8;
    Array z = Array::normal(random, rows * stride, t, ties ? 1 : 3);
    if (ties) {
      Values v = z.start();
      for (double& x : v) x = std::round(x);
      z = Array::of(v, t);
    }
    Values counts(rows * vocab), prompt(rows * vocab), uniform(rows), token(rows), logprob(rows);
    for (double& x : counts) x = random.below(5) == 0 ? static_cast<double>(random.below(4)) : 0;
    for (double& x : prompt) x = random.below(7) == 0;
    for (int64_t r = 0; r < rows; ++r) uniform[r] = r == 0 ? 0.0 : r == 1 ? 0.99999994 : random.uniform();
    Array uniform_a = Array::of(uniform, DType::kF32);
    for (int64_t r = 0; r < rows; ++r) {
      std::vector<std::pair<double, int>> order;
      std::vector<float> v(vocab);
      float top = -INFINITY;
      for (int i = 0; i < vocab; ++i) {
        float x = static_cast<float>(z[r * stride + i]);
        const float seen = static_cast<float>(counts[r * vocab + i]), rep = static_cast<float>(s.repetition);
        if (seen > 0 || prompt[r * vocab + i] > 0) x = x > 0 ? x / rep : x * rep;
        if (seen > 0) x -= static_cast<float>(s.frequency) * seen + static_cast<float>(s.presence);
        v[i] = x / (s.temperature > 0 ? static_cast<float>(s.temperature) : 1.0f);
        top = std::max(top, v[i]);
        order.push_back({-static_cast<double>(v[i]), i});
      }
      double sum = 0;
      for (float x : v) sum += std::exp(static_cast<double>(x) - top);
      std::sort(order.begin(), order.end());
      auto mass = [&](int i) { return std::floor(std::exp(static_cast<double>(v[i]) - top) * 0x1p40 + 0.5); };
      size_t kept = s.top_k > 0 ? std::min<size_t>(s.top_k, order.size()) : order.size();
      double total = 0;
      for (size_t i = 0; i < kept; ++i) total += mass(order[i].second);
      if (s.top_p < 1) {
        double run = 0;
        size_t i = 0;
        while (i < kept && (i == 0 || run < static_cast<double>(static_cast<float>(s.top_p)) * total))
          run += mass(order[i++].second);
        kept = i;
      }
      std::vector<bool> stays(vocab, false);
      total = 0;
      for (size_t i = 0; i < kept; ++i)
        if (std::exp(static_cast<double>(v[order[i].second]) - top) >= s.min_p)
          stays[order[i].second] = true, total += mass(order[i].second);
      int pick = order[0].second;
      if (s.temperature > 0) {
        double target = std::min(std::floor(uniform_a[r] * total), total - 1), run = 0;
        for (int i = 0; i < vocab; ++i) {
          if (!stays[i]) continue;
          if (run <= target && target < run + mass(i)) pick = i;
          run += mass(i);
        }
      }
      token[r] = pick, logprob[r] = v[pick] - top - std::log(sum);
    }
    Array counts_a = Array::of(counts, DType::kI32), prompt_a = Array::of(prompt, DType::kU8),
          token_a = Array::poison(rows, DType::kI32), logprob_a = Array::poison(rows, DType::kF32);
    auto each = [&](double v) { return Array::of(Values(rows, v), DType::kF32); };
    Array temperature = each(s.temperature), top_p = each(s.top_p), min_p = each(s.min_p), repetition = each(s.repetition),
          presence = each(s.presence), frequency = each(s.frequency), top_k = Array::of(Values(rows, s.top_k), DType::kI32);
    Sample a{z.data(),
             temperature.as<float>(),
             top_k.as<int32_t>(),
             top_p.as<float>(),
             min_p.as<float>(),
             repetition.as<float>(),
             presence.as<float>(),
             frequency.as<float>(),
             counts_a.as<int32_t>(),
             prompt_a.as<uint8_t>(),
             uniform_a.as<float>(),
             token_a.as<int32_t>(),
             logprob_a.as<float>(),
             rows,
             stride,
             vocab,
             t};
    if (c.run(supports_sample_sm90(a, checker.device()), 0, [&](const Launch& l) { sample_sm90(a, l); }, {&token_a, &logprob_a}))
      c.expect("token", token_a, token, kExact), c.expect("logprob", logprob_a, logprob, {2e-5, 2e-6});
  }
}

void perfs(Checker& checker) {
  const DType t = DType::kBf16;
  const int64_t tokens = 32768;
  if (checker.wants("conv1d"))
    for (int channels : {10240, 944}) {
      const int64_t rows = channels == 944 ? tokens * 4 : tokens, n = rows * channels;
      DeviceRandom x(n, t), y(n, t), dx(n, t), w(channels * 4, t), b(channels, t), dw(channels * 4, DType::kF32),
          db(channels, DType::kF32);
      std::vector<double> cu;
      for (int i = 0; i <= 8; ++i) cu.push_back(static_cast<double>(rows * i / 8));
      Array cu_a = Array::of(cu, DType::kI32);
      const std::string s = std::to_string(rows) + "x" + std::to_string(channels) + "/w4/8docs";
      Conv1dFwd f{x.data(), w.data(), b.data(), cu_a.as<int32_t>(), nullptr,  y.data(),
                  nullptr,  rows,     channels, channels,           channels, 4,
                  8,        true,     t};
      perf(checker, "conv1d_fwd", s, t, 4.0 * n, 0, [&](const Launch& l) { conv1d_fwd_sm90(f, l); });
      Conv1dBwd g{y.data(),       x.data(), w.data(), b.data(), cu_a.as<int32_t>(), nullptr,  nullptr,  dx.data(), dw.as<float>(),
                  db.as<float>(), nullptr,  rows,     channels, channels,           channels, channels, 4,         8,
                  true,           t};
      perf(checker, "conv1d_bwd", s, t, 6.0 * n, workspace_conv1d_bwd_sm90(g), [&](const Launch& l) { conv1d_bwd_sm90(g, l); });
    }
  if (checker.wants("structure")) {
    const int64_t many = tokens * 32;
    DeviceRandom a(many, DType::kI32, -1, 9), b(many, DType::kI32, 0, 16), table(25 * 64, t), scale(2, DType::kF32),
        y(many * 64, t), dtable(25 * 64, DType::kF32), dscale(2, DType::kF32);
    StructureStreams s{};
    s.num = 2, s.ids[0] = a.as<int32_t>(), s.ids[1] = b.as<int32_t>(), s.classes[0] = 9, s.classes[1] = 16;
    StructureFwd f{s, table.data(), scale.as<float>(), y.data(), many, 64, t};
    perf(checker, "structure_fwd", "1048576x64", t, many * (128.0 + 8), 0, [&](const Launch& l) { structure_fwd_sm90(f, l); });
    StructureBwd g{s, y.data(), table.data(), scale.as<float>(), dtable.as<float>(), dscale.as<float>(), many, 64, t};
    perf(checker, "structure_bwd", "1048576x64", t, many * (128.0 + 8), workspace_structure_bwd_sm90(g),
         [&](const Launch& l) { structure_bwd_sm90(g, l); });
  }
  if (checker.wants("sample"))
    for (int64_t rows : {int64_t{64}, int64_t{1024}}) {
      const int vocab = 131072;
      DeviceRandom z(rows * vocab, t, -8, 8), u(rows, DType::kF32, 0, 1), p(rows, DType::kF32, 0.9, 0.95),
          k(rows, DType::kI32, 50, 51), token(rows, DType::kI32);
      Sample a{};
      a.logits = z.data(), a.uniform = u.as<float>(), a.token = token.as<int32_t>(), a.rows = rows, a.stride = vocab,
      a.vocab = vocab, a.dtype = t;
      perf(checker, "sample", std::to_string(rows) + "x131072/plain", t, 2.0 * rows * vocab, 0,
           [&](const Launch& l) { sample_sm90(a, l); });
      a.top_p = p.as<float>(), a.top_k = k.as<int32_t>();
      perf(checker, "sample", std::to_string(rows) + "x131072/k50_p", t, 2.0 * rows * vocab, 0,
           [&](const Launch& l) { sample_sm90(a, l); });
    }
}

}  // namespace

void check_sequence(Checker& checker) {
  if (checker.options().perf) return perfs(checker);
  for (DType t : {DType::kBf16, DType::kF32}) {
    if (checker.wants("conv1d")) {
      conv1d(checker, {37}, 24, 4, true, false, true, 0, t), conv1d(checker, {5, 0, 1, 2, 40, 3}, 12, 4, true, true, true, 8, t),
          conv1d(checker, {16, 17, 15}, 7, 3, false, true, false, 1, t);
      conv1d(checker, {1}, 1, 2, true, true, true, 0, t), conv1d(checker, {0}, 8, 4, true, true, true, 0, t),
          conv1d(checker, {1, 1, 1, 1}, 5, 4, true, true, true, 0, t);
      if (!checker.options().small)
        conv1d(checker, {300, 1, 211}, 944, 4, true, true, true, 0, t), conv1d(checker, {1000}, 16, 4, true, false, true, 0, t);
    }
    if (checker.wants("structure")) {
      structure(checker, 100, 64, 2, t), structure(checker, 33, 7, 5, t), structure(checker, 0, 64, 2, t),
          structure(checker, 1, 1, 1, t), structure(checker, 20, 300, 8, t), structure(checker, 1001, 72, 4, t);
      if (!checker.options().small) structure(checker, 20000, 64, 5, t);
    }
    if (checker.wants("sample")) {
      const int64_t rows = checker.options().small ? 6 : 40;
      for (int vocab : {1, 50, 5000}) {
        sample(checker, rows, vocab, {}, false, "plain", t), sample(checker, rows, vocab, {.temperature = 0}, true, "greedy", t);
        sample(checker, rows, vocab, {.temperature = 0.7, .top_k = 7}, true, "top_k", t),
            sample(checker, rows, vocab, {.temperature = 1.3, .top_p = 0.8}, true, "top_p", t);
        sample(checker, rows, vocab, {.top_p = 0.6, .min_p = 0.05, .top_k = 20}, false, "all_cuts", t),
            sample(checker, rows, vocab, {.min_p = 0.3}, true, "min_p", t);
        sample(checker, rows, vocab, {.temperature = 0.9, .top_p = 0.95, .repetition = 1.2, .presence = 0.3, .frequency = 0.2},
               false, "penalties", t);
      }
      sample(checker, 0, 50, {}, false, "plain", t);
    }
  }
}

}  // namespace weft::check
