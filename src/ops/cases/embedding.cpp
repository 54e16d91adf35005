#include "ops/aten.h"

#include "ops/embedding.h"

#include "ops/cases/draw.h"
#include "ops/cases/rows.h"

namespace weft::ops::cases {

std::vector<Case> embedding_cases() {
  const auto row = [](std::string name, int64_t tokens, int64_t vocab, int64_t dim, VocabCut cut, bool large) {
    Case c{"embedding", std::move(name), kFloats, [=](const Build& b) {
             at::manual_seed(b.seed);
             Instance i;
             const at::Tensor ids = integers(b, cut.total > 0 ? cut.total : vocab, {tokens});
             i.weights.push_back({"w", normal(b, {vocab, dim}), {}});
             i.op = [=](const std::vector<at::Tensor>&, std::deque<Weight>& w, const Policy& p) {
               return std::vector<at::Tensor>{embedding(ids, w[0], p, cut)};
             };
             const double moved = static_cast<double>(tokens * dim), size = static_cast<double>(i.weights[0].value.element_size());
             i.cost = {0, 2 * moved * size, 0, moved * (size + 8)};
             if (cut.total == 0) i.peer = "at::embedding", i.peer_op = [ids](const Tensors&, const Tensors& w) { return Tensors{at::embedding(w[0], ids)}; };
             return i;
           }};
    c.grad = !large, c.perf = large;
    return c;
  };
  return {row("37 of 11 x 65", 37, 11, 65, {}, false),       row("1 of 1 x 1", 1, 1, 1, {}, false), row("0 of 5 x 8", 0, 5, 8, {}, false),
          row("cut 4..9 of 13", 29, 5, 6, {4, 13}, false), row("300 of 2 x 200", 300, 2, 200, {}, false),
          compared(row("32768 of 50304 x 768", 32768, 50304, 768, {}, true)), timed(row("65536 of 131072 x 4096", 65536, 131072, 4096, {}, true))};
}

}  // namespace weft::ops::cases
