#include <algorithm>
#include <cmath>
#include <numeric>

#include "check.h"
#include "kernels/aux_loss/aux_loss.h"
#include "kernels/permute/permute.h"
#include "kernels/router/router.h"

namespace weft::check {
namespace {

using namespace kernels;
using Values = std::vector<double>;

double softplus(double z) { return z > 30 ? z : std::log1p(std::exp(z)); }
double sigma(double z) { return 1 / (1 + std::exp(-z)); }
double score(Score k, double z) { return k == Score::kSigmoid ? sigma(z) : std::sqrt(softplus(z)); }

Values softmax(const Values& z) {
  const double top = *std::max_element(z.begin(), z.end());
  Values p(z.size());
  double sum = 0;
  for (size_t i = 0; i < z.size(); ++i) sum += p[i] = std::exp(z[i] - top);
  for (double& v : p) v /= sum;
  return p;
}

struct Routed {
  std::vector<int> index;
  Values weight, scores;
  double lse = 0;
};
// Weights for given experts: a smooth function of z, so that the gradient can be taken by differences.
Routed weights_of(const Values& z, const std::vector<int>& index, Score kind, double scaling) {
  Routed r;
  r.index = index;
  const bool soft = kind == Score::kSoftmaxPre || kind == Score::kSoftmaxPost;
  const Values p = softmax(z);
  double all = 0, sum = 0;
  for (double v : z) all += soft ? 0 : score(kind, v);
  for (size_t e = 0; e < z.size(); ++e) r.scores.push_back(soft ? p[e] : score(kind, z[e]) / (all + 1e-20));
  const double top = *std::max_element(z.begin(), z.end());
  double exps = 0;
  for (double v : z) exps += std::exp(v - top);
  r.lse = top + std::log(exps);
  Values chosen;
  for (int e : index)
    chosen.push_back(kind == Score::kSoftmaxPre ? p[e] : kind == Score::kSoftmaxPost ? z[e] : score(kind, z[e]));
  if (kind == Score::kSoftmaxPost) chosen = softmax(chosen);
  for (double v : chosen) sum += v;
  for (double v : chosen) r.weight.push_back(scaling * (!soft && index.size() > 1 ? v / (sum + 1e-20) : v));
  return r;
}

void router(Checker& checker, int64_t tokens, int experts, int k, Score kind, bool bias, int groups, int group_topk, double scale,
            bool mask) {
  const std::string shape = std::to_string(tokens) + "x" + std::to_string(experts) + "/k" + std::to_string(k) + "/score" +
                            std::to_string(static_cast<int>(kind)) + (bias ? "/bias" : "") +
                            (groups > 1 ? "/groups" + std::to_string(groups) : "") + (mask ? "/mask" : "") + "/scale" +
                            std::to_string(static_cast<int>(scale));
  Case fwd(checker, "router_fwd", shape, DType::kF32), bwd(checker, "router_bwd", shape, DType::kF32);
  for (int seed = 1; seed <= (checker.options().small ? 1 : 3); ++seed) {
    Random random(seed);
    const double scaling = 2.5;
    Array z = Array::normal(random, tokens * experts, DType::kF32, scale), b = Array::normal(random, experts, DType::kF32, 0.1);
    if (tokens > 2) {  // ties, and extreme logits
      Values v = z.start();
      for (int e = 0; e < experts; ++e) v[e] = 0.5, v[experts + e] = e % 3 == 0 ? -100 : e % 3 == 1 ? 0 : 100;
      z = Array::of(v, DType::kF32);
    }
    Values valid(tokens, 1), index(tokens * k), weight(tokens * k), scores(tokens * experts), lse(tokens), counts(experts),
        dz(tokens * experts);
    Array dw = Array::normal(random, tokens * k, DType::kF32), ds = Array::normal(random, tokens * experts, DType::kF32, 0.1),
          dl = Array::normal(random, tokens, DType::kF32, 0.1);
    for (int64_t t = 0; t < tokens; ++t) {
      if (mask && t % 4 == 3) {
        valid[t] = 0;
        for (int j = 0; j < k; ++j) index[t * k + j] = -1;
        continue;
      }
      const Values row(z.start().begin() + t * experts, z.start().begin() + (t + 1) * experts);
      const Values p = softmax(row);
      std::vector<float> race(experts);  // the choice in fp32, as the kernel makes it
      for (int e = 0; e < experts; ++e) {
        float s = static_cast<float>(row[e]);
        if (kind == Score::kSoftmaxPre) s = static_cast<float>(p[e]);
        if (kind == Score::kSigmoid || kind == Score::kSqrtSoftplus) s = static_cast<float>(score(kind, row[e]));
        race[e] = s + (bias ? static_cast<float>(b[e]) : 0.0f);
      }
      if (groups > 1) {
        const int size = experts / groups, best_of = k / group_topk;
        std::vector<std::pair<float, int>> order;
        for (int g = 0; g < groups; ++g) {
          std::vector<float> in(race.begin() + g * size, race.begin() + (g + 1) * size);
          std::sort(in.rbegin(), in.rend());
          float sum = 0;
          for (int i = 0; i < best_of; ++i) sum += in[i];
          order.push_back({-sum, g});
        }
        std::sort(order.begin(), order.end());
        for (int i = group_topk; i < groups; ++i)
          for (int e = 0; e < size; ++e) race[order[i].second * size + e] = -INFINITY;
      }
      std::vector<int> order(experts);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int x, int y) { return race[x] > race[y]; });
      order.resize(k);
      const Routed r = weights_of(row, order, kind, scaling);
      for (int j = 0; j < k; ++j) index[t * k + j] = order[j], weight[t * k + j] = r.weight[j], counts[order[j]] += 1;
      for (int e = 0; e < experts; ++e) scores[t * experts + e] = r.scores[e];
      lse[t] = r.lse;
      auto loss = [&](const Values& at) {
        const Routed q = weights_of(at, order, kind, scaling);
        double sum = dl[t] * q.lse;
        for (int j = 0; j < k; ++j) sum += dw[t * k + j] * q.weight[j];
        for (int e = 0; e < experts; ++e) sum += ds[t * experts + e] * q.scores[e];
        return sum;
      };
      for (int e = 0; e < experts; ++e) {
        const double h = 1e-4;
        auto moved = [&](double d) {
          Values v = row;
          v[e] += d;
          return loss(v);
        };
        dz[t * experts + e] = (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h);
      }
    }
    Array valid_a = Array::of(valid, DType::kU8), index_a = Array::poison(tokens * k, DType::kI32),
          weight_a = Array::poison(tokens * k, DType::kF32), scores_a = Array::poison(tokens * experts, DType::kF32),
          lse_a = Array::poison(tokens, DType::kF32), counts_a = Array::of(Values(experts, 3), DType::kI32);
    for (double& c : counts) c += 3;
    RouterFwd f{z.as<float>(),
                bias ? b.as<float>() : nullptr,
                mask ? valid_a.as<uint8_t>() : nullptr,
                index_a.as<int32_t>(),
                weight_a.as<float>(),
                scores_a.as<float>(),
                lse_a.as<float>(),
                counts_a.as<int32_t>(),
                tokens,
                experts,
                k,
                groups,
                group_topk,
                static_cast<float>(scaling),
                kind};
    if (fwd.run(supports_router_fwd_sm90(f, checker.device()), 0, [&](const Launch& l) { router_fwd_sm90(f, l); },
                {&index_a, &weight_a, &scores_a, &lse_a, &counts_a})) {
      fwd.expect("indices", index_a, index, kExact), fwd.expect("counts", counts_a, counts, kExact);
      fwd.expect("weights", weight_a, weight, {3e-6, 1e-7}), fwd.expect("scores", scores_a, scores, {4e-6, 1e-7}),
          fwd.expect("lse", lse_a, lse, {2e-6, 1e-6});
    }
    Array index_in = Array::of(index, DType::kI32), dz_a = Array::poison(tokens * experts, DType::kF32);
    RouterBwd g{z.as<float>(),
                index_in.as<int32_t>(),
                dw.as<float>(),
                ds.as<float>(),
                dl.as<float>(),
                dz_a.as<float>(),
                tokens,
                experts,
                k,
                static_cast<float>(scaling),
                kind};
    if (bwd.run(supports_router_bwd_sm90(g, checker.device()), 0, [&](const Launch& l) { router_bwd_sm90(g, l); }, {&dz_a}))
      bwd.expect("dlogits", dz_a, dz, {1e-5, 1e-5});
  }
}

void aux(Checker& checker, int64_t tokens, int experts, int k, int segments, bool mask) {
  const std::string shape = std::to_string(tokens) + "x" + std::to_string(experts) + "/k" + std::to_string(k) + "/segments" +
                            std::to_string(segments) + (mask ? "/mask" : "");
  Case c(checker, "aux_loss", shape, DType::kF32);
  for (int seed = 1; seed <= (checker.options().small ? 1 : 3); ++seed) {
    Random random(seed);
    const double coeff = 0.01, dloss = 1.7;
    Values raw(tokens * experts), valid(tokens, 1), cu(segments + 1), sums(segments * experts), counts(segments * experts),
        in(segments), ds(tokens * experts);
    for (double& v : raw) v = random.uniform();
    Array s = Array::of(raw, DType::kF32);
    for (int g = 0; g <= segments; ++g) cu[g] = static_cast<double>(tokens * g / segments);
    double loss = 0;
    for (int g = 0; g < segments; ++g)
      for (int64_t t = static_cast<int64_t>(cu[g]); t < static_cast<int64_t>(cu[g + 1]); ++t) {
        if (mask && t % 3 == 1) {
          valid[t] = 0;
          continue;
        }
        in[g] += 1;
        std::vector<int> order(experts);
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int x, int y) { return s[t * experts + x] > s[t * experts + y]; });
        for (int j = 0; j < k; ++j) counts[g * experts + order[j]] += 1;
        for (int e = 0; e < experts; ++e) sums[g * experts + e] += s[t * experts + e];
      }
    for (int g = 0; g < segments; ++g) {
      const double f = in[g] > 0 ? coeff * experts / (k * in[g] * in[g] * segments) : 0;
      for (int e = 0; e < experts; ++e) {
        loss += f * sums[g * experts + e] * counts[g * experts + e];
        for (int64_t t = static_cast<int64_t>(cu[g]); t < static_cast<int64_t>(cu[g + 1]); ++t)
          ds[t * experts + e] = valid[t] > 0 ? dloss * f * counts[g * experts + e] : 0;
      }
    }
    Array valid_a = Array::of(valid, DType::kU8), cu_a = Array::of(cu, DType::kI32),
          sums_a = Array::poison(segments * experts, DType::kF32), counts_a = Array::poison(segments * experts, DType::kI32),
          in_a = Array::poison(segments, DType::kI32), loss_a = Array::poison(1, DType::kF32),
          dloss_a = Array::of({dloss}, DType::kF32), ds_a = Array::poison(tokens * experts, DType::kF32);
    const uint8_t* v = mask ? valid_a.as<uint8_t>() : nullptr;
    const int32_t* cut = segments > 1 ? cu_a.as<int32_t>() : nullptr;
    AuxStats a{s.as<float>(), v, cut,     sums_a.as<float>(), counts_a.as<int32_t>(), in_a.as<int32_t>(), tokens,
               experts,       k, segments};
    AuxLoss l{sums_a.as<float>(), counts_a.as<int32_t>(),   in_a.as<int32_t>(), loss_a.as<float>(), experts, k,
              segments,           static_cast<float>(coeff)};
    AuxLossBwd b{dloss_a.as<float>(),
                 counts_a.as<int32_t>(),
                 in_a.as<int32_t>(),
                 v,
                 cut,
                 ds_a.as<float>(),
                 tokens,
                 experts,
                 k,
                 segments,
                 static_cast<float>(coeff)};
    if (c.run(supports_aux_stats_sm90(a, checker.device()), workspace_aux_stats_sm90(a),
              [&](const Launch& w) { aux_stats_sm90(a, w), aux_loss_sm90(l, w), aux_loss_bwd_sm90(b, w); },
              {&sums_a, &counts_a, &in_a, &loss_a, &ds_a})) {
      c.expect("sums", sums_a, sums, kSums), c.expect("counts", counts_a, counts, kExact),
          c.expect("tokens_in", in_a, in, kExact);
      c.expect("loss", loss_a, {loss}, {1e-5, 0}), c.expect("dscores", ds_a, ds, {2e-6, 1e-9});
    }
  }
}

void permutation(Checker& checker, int64_t tokens, int experts, int k, int dim, int align, int drop, bool one_expert, DType t) {
  const std::string shape = std::to_string(tokens) + "x" + std::to_string(dim) + "/e" + std::to_string(experts) + "k" +
                            std::to_string(k) + "/align" + std::to_string(align) + (drop ? "/drop" : "") +
                            (one_expert ? "/all_to_one" : "");
  Case plan(checker, "permute_plan", shape, DType::kI32), fwd(checker, "permute_fwd", shape, t),
      back(checker, "unpermute_fwd", shape, t), grad(checker, "unpermute_bwd", shape, t);
  for (int seed = 1; seed <= (checker.options().small ? 1 : 3); ++seed) {
    Random random(seed);
    const int64_t slots = tokens * k, max_rows = slots + static_cast<int64_t>(experts) * (align - 1) + 3;
    Values index(slots), counts(experts), offsets(experts + 1), row_of(slots, -1), slot_of(max_rows, -1);
    for (double& e : index)
      e = drop && random.below(10) < drop ? -1 : one_expert ? experts - 1 : static_cast<double>(random.below(experts));
    for (double e : index)
      if (e >= 0) counts[static_cast<int>(e)] += 1;
    for (int e = 0; e < experts; ++e) offsets[e + 1] = offsets[e] + std::ceil(counts[e] / align) * align;
    Values next(offsets);
    for (int64_t i = 0; i < slots; ++i)
      if (index[i] >= 0)
        row_of[i] = next[static_cast<int>(index[i])]++, slot_of[static_cast<int64_t>(row_of[i])] = static_cast<double>(i);
    Array index_a = Array::of(index, DType::kI32), counts_a = Array::poison(experts, DType::kI32),
          offsets_a = Array::poison(experts + 1, DType::kI32), row_a = Array::poison(slots, DType::kI32),
          slot_a = Array::poison(max_rows, DType::kI32);
    PermutePlan p{index_a.as<int32_t>(),
                  counts_a.as<int32_t>(),
                  offsets_a.as<int32_t>(),
                  row_a.as<int32_t>(),
                  slot_a.as<int32_t>(),
                  tokens,
                  max_rows,
                  k,
                  experts,
                  align};
    if (plan.run(supports_permute_plan_sm90(p, checker.device()), workspace_permute_plan_sm90(p),
                 [&](const Launch& l) { permute_plan_sm90(p, l); }, {&counts_a, &offsets_a, &row_a, &slot_a})) {
      plan.expect("counts", counts_a, counts, kExact), plan.expect("offsets", offsets_a, offsets, kExact);
      plan.expect("row_of_slot", row_a, row_of, kExact), plan.expect("slot_of_row", slot_a, slot_of, kExact);
    }
    Array row_in = Array::of(row_of, DType::kI32), slot_in = Array::of(slot_of, DType::kI32),
          x = Array::normal(random, tokens * dim, t), probs = Array::normal(random, slots, DType::kF32, 0.2, 0.5),
          rows = Array::normal(random, max_rows * dim, t), dy = Array::normal(random, tokens * dim, t);
    Values y(max_rows * dim), row_probs(max_rows), sum(tokens * dim), plain(tokens * dim), dx(max_rows * dim),
        dprobs(slots, std::nan(""));
    for (int64_t r = 0; r < max_rows; ++r) {
      if (slot_of[r] < 0) continue;
      const int64_t slot = static_cast<int64_t>(slot_of[r]), token = slot / k;
      row_probs[r] = probs[slot], dprobs[slot] = 0;
      for (int d = 0; d < dim; ++d) {
        y[r * dim + d] = x[token * dim + d];
        sum[token * dim + d] += probs[slot] * rows[r * dim + d], plain[token * dim + d] += rows[r * dim + d];
        dx[r * dim + d] = probs[slot] * dy[token * dim + d], dprobs[slot] += dy[token * dim + d] * rows[r * dim + d];
      }
    }
    Array y_a = Array::poison(max_rows * dim, t), row_probs_a = Array::poison(max_rows, DType::kF32),
          sum_a = Array::poison(tokens * dim, t), dx_a = Array::poison(max_rows * dim, t),
          dprobs_a = Array::poison(slots, DType::kF32);
    PermuteFwd f{x.data(), probs.as<float>(), slot_in.as<int32_t>(), y_a.data(), row_probs_a.as<float>(), max_rows, k, dim, t};
    for (bool by_token : {false, true}) {
      f.row_of_slot = by_token ? row_in.as<int32_t>() : nullptr, f.tokens = tokens;
      if (by_token && slots == 0) continue;
      if (fwd.run(supports_permute_fwd_sm90(f, checker.device()), 0, [&](const Launch& l) { permute_fwd_sm90(f, l); },
                  {&y_a, &row_probs_a}))
        fwd.expect("y", y_a, y, kExact), fwd.expect("row_probs", row_probs_a, row_probs, kExact);
    }
    for (bool with : {true, false}) {
      UnpermuteFwd u{rows.data(), with ? probs.as<float>() : nullptr, row_in.as<int32_t>(), sum_a.data(), tokens, k, dim, t};
      if (back.run(supports_unpermute_fwd_sm90(u, checker.device()), 0, [&](const Launch& l) { unpermute_fwd_sm90(u, l); },
                   {&sum_a}))
        back.expect("y", sum_a, with ? sum : plain, rounded(t));
    }
    UnpermuteBwd b{
        dy.data(), rows.data(), probs.as<float>(), slot_in.as<int32_t>(), dx_a.data(), dprobs_a.as<float>(), max_rows, k, dim, t};
    for (bool by_token : {false, true}) {
      b.row_of_slot = by_token ? row_in.as<int32_t>() : nullptr, b.tokens = tokens;
      if (by_token && slots == 0) continue;
      if (grad.run(supports_unpermute_bwd_sm90(b, checker.device()), 0, [&](const Launch& l) { unpermute_bwd_sm90(b, l); },
                   {&dx_a, &dprobs_a}))
        grad.expect("dx", dx_a, dx, rounded(t)), grad.expect("dprobs", dprobs_a, dprobs, kSums);
    }
  }
}

void perfs(Checker& checker) {
  if (checker.wants("router"))
    for (auto [experts, k] : {std::pair<int, int>{16, 4}, {128, 8}}) {
      const int64_t tokens = 262144;
      DeviceRandom z(tokens * experts, DType::kF32), index(tokens * k, DType::kI32, 0, experts), w(tokens * k, DType::kF32),
          dz(tokens * experts, DType::kF32), counts(experts, DType::kI32, 0, 1);
      RouterFwd f{z.as<float>(),
                  nullptr,
                  nullptr,
                  index.as<int32_t>(),
                  w.as<float>(),
                  nullptr,
                  nullptr,
                  counts.as<int32_t>(),
                  tokens,
                  experts,
                  k,
                  1,
                  1,
                  1,
                  Score::kSigmoid};
      const std::string s = std::to_string(tokens) + "x" + std::to_string(experts) + "/k" + std::to_string(k);
      perf(checker, "router_fwd", s, DType::kF32, tokens * (4.0 * experts + 8.0 * k), 0,
           [&](const Launch& l) { router_fwd_sm90(f, l); });
      RouterBwd b{z.as<float>(),  index.as<int32_t>(), w.as<float>(), nullptr, nullptr, dz.as<float>(), tokens, experts, k, 1,
                  Score::kSigmoid};
      perf(checker, "router_bwd", s, DType::kF32, tokens * (8.0 * experts + 8.0 * k), 0,
           [&](const Launch& l) { router_bwd_sm90(b, l); });
    }
  if (checker.wants("permute")) {
    const DType t = DType::kBf16;
    const int64_t tokens = 32768;
    for (auto [experts, k, dim] : {std::tuple<int, int, int>{16, 4, 4096}, {128, 8, 2048}}) {
      const int64_t slots = tokens * k, max_rows = slots + experts * 127;
      DeviceRandom index(slots, DType::kI32, 0, experts), counts(experts, DType::kI32), offsets(experts + 1, DType::kI32),
          row(slots, DType::kI32), slot(max_rows, DType::kI32), x(tokens * dim, t), rows(max_rows * dim, t),
          dx(max_rows * dim, t), y(tokens * dim, t), probs(slots, DType::kF32), row_probs(max_rows, DType::kF32),
          dprobs(slots, DType::kF32);
      const std::string s =
          std::to_string(tokens) + "x" + std::to_string(dim) + "/e" + std::to_string(experts) + "k" + std::to_string(k);
      PermutePlan p{index.as<int32_t>(),
                    counts.as<int32_t>(),
                    offsets.as<int32_t>(),
                    row.as<int32_t>(),
                    slot.as<int32_t>(),
                    tokens,
                    max_rows,
                    k,
                    experts,
                    128};
      perf(checker, "permute_plan", s, DType::kI32, 12.0 * slots, workspace_permute_plan_sm90(p),
           [&](const Launch& l) { permute_plan_sm90(p, l); });
      const double small = 2.0 * tokens * dim, large = 2.0 * slots * dim;
      PermuteFwd f{x.data(),
                   probs.as<float>(),
                   slot.as<int32_t>(),
                   rows.data(),
                   row_probs.as<float>(),
                   max_rows,
                   k,
                   dim,
                   t,
                   row.as<int32_t>(),
                   tokens};
      perf(checker, "permute_fwd", s, t, small + large, 0, [&](const Launch& l) { permute_fwd_sm90(f, l); });
      UnpermuteFwd u{rows.data(), probs.as<float>(), row.as<int32_t>(), y.data(), tokens, k, dim, t};
      perf(checker, "unpermute_fwd", s, t, small + large, 0, [&](const Launch& l) { unpermute_fwd_sm90(u, l); });
      UnpermuteBwd b{y.data(),
                     rows.data(),
                     probs.as<float>(),
                     slot.as<int32_t>(),
                     dx.data(),
                     dprobs.as<float>(),
                     max_rows,
                     k,
                     dim,
                     t,
                     row.as<int32_t>(),
                     tokens};
      perf(checker, "unpermute_bwd", s, t, small + 2 * large, 0, [&](const Launch& l) { unpermute_bwd_sm90(b, l); });
    }
  }
}

}  // namespace

void check_moe(Checker& checker) {
  if (checker.options().perf) return perfs(checker);
  if (checker.wants("router")) {
    for (Score s : {Score::kSoftmaxPre, Score::kSoftmaxPost, Score::kSigmoid, Score::kSqrtSoftplus}) {
      router(checker, 9, 16, 4, s, false, 1, 1, 2, true), router(checker, 5, 40, 6, s, true, 1, 1, 1, false),
          router(checker, 3, 5, 1, s, false, 1, 1, 1, false);
      router(checker, 6, 64, 8, s, true, 8, 4, 1, true), router(checker, 0, 16, 2, s, false, 1, 1, 1, false);
      if (!checker.options().small)
        router(checker, 20, 128, 8, s, true, 4, 2, 3, false), router(checker, 7, 300, 32, s, false, 1, 1, 1, false),
            router(checker, 4, 1024, 8, s, false, 32, 4, 1, false);
    }
    router(checker, 1, 1, 1, Score::kSigmoid, false, 1, 1, 1, false);
  }
  if (checker.wants("aux_loss")) {
    aux(checker, 100, 16, 4, 1, false), aux(checker, 100, 16, 4, 3, true), aux(checker, 37, 40, 6, 5, true),
        aux(checker, 1, 3, 1, 1, false), aux(checker, 2, 3, 3, 4, false);
    if (!checker.options().small) aux(checker, 3000, 128, 8, 2, true), aux(checker, 900, 8, 2, 300, false);
  }
  if (checker.wants("permute"))
    for (DType t : {DType::kBf16, DType::kF32}) {
      permutation(checker, 50, 8, 2, 24, 1, 0, false, t), permutation(checker, 33, 5, 3, 7, 16, 2, false, t),
          permutation(checker, 20, 4, 2, 40, 8, 0, true, t);
      permutation(checker, 0, 4, 2, 8, 4, 0, false, t), permutation(checker, 1, 1, 1, 1, 1, 0, false, t),
          permutation(checker, 600, 40, 4, 8, 128, 1, false, t);
      if (!checker.options().small)
        permutation(checker, 2000, 130, 8, 16, 16, 1, false, t), permutation(checker, 70, 3, 2, 2056, 16, 0, false, t);
    }
}

}  // namespace weft::check
