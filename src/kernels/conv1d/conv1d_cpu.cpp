// A task is 64 channels of one document: rows of inputs are a ring in fp32, weights stand as [width][64].
#include <algorithm>
#include <vector>

#include "kernels/conv1d/conv1d.h"
#include "kernels/cpu.h"

namespace weft::kernels {
namespace {

constexpr int32_t kBlock = 64, kMaxWidth = 16;

struct Lanes {
  float v[kBlock];
};

template <class T>
inline void load(Lanes& out, const T* p, int32_t n) {
#pragma omp simd
  for (int32_t c = 0; c < n; ++c) out.v[c] = to_f32(p[c]);
}

struct Taps {  // weights and bias of one block of channels
  Lanes w[kMaxWidth], bias;
};

template <class T>
Taps taps(const void* w, const void* bias, int32_t c0, int32_t n, int32_t width) {
  Taps t{};
  for (int32_t c = 0; c < n; ++c) {
    for (int32_t j = 0; j < width; ++j) t.w[j].v[c] = to_f32(static_cast<const T*>(w)[static_cast<int64_t>(c0 + c) * width + j]);
    if (bias != nullptr) t.bias.v[c] = to_f32(static_cast<const T*>(bias)[c0 + c]);
  }
  return t;
}

// The width - 1 inputs before the document's first token.
template <class T>
void initial(std::vector<Lanes>& before, const void* state, int64_t document, int32_t channels, int32_t c0, int32_t n, int32_t width) {
  for (int32_t j = 0; j < width - 1; ++j)
    for (int32_t c = 0; c < n; ++c)
      before[static_cast<size_t>(j)].v[c] =
          state == nullptr ? 0.0f : to_f32(static_cast<const T*>(state)[(document * channels + c0 + c) * (width - 1) + j]);
}

WEFT_CLONES void pre_activation(const Lanes* window, const Taps& t, int32_t width, Lanes& a) {
  a = t.bias;
  for (int32_t j = 0; j < width; ++j)
#pragma omp simd
    for (int32_t c = 0; c < kBlock; ++c) a.v[c] += t.w[j].v[c] * window[j].v[c];
}

WEFT_CLONES void correlate(const Lanes* ahead, const Taps& t, int32_t width, Lanes& sum) {
  sum = Lanes{};
  for (int32_t j = 0; j < width; ++j)
#pragma omp simd
    for (int32_t c = 0; c < kBlock; ++c) sum.v[c] += t.w[width - 1 - j].v[c] * ahead[j].v[c];
}

template <class T>
WEFT_CLONES void write(const Lanes& a, T* y, int32_t n, bool silu) {
  if (silu) {
#pragma omp simd
    for (int32_t c = 0; c < n; ++c) y[c] = from_f32<T>(a.v[c] / (1.0f + exp_f32(-a.v[c])));
  } else {
#pragma omp simd
    for (int32_t c = 0; c < n; ++c) y[c] = from_f32<T>(a.v[c]);
  }
}

// da = dy * d activation / d a; dw and dbias gather.
template <class T>
WEFT_CLONES void gather(const Lanes* window, const Lanes& a, const T* dy, int32_t n, int32_t width, bool silu, Lanes& da, Lanes* dw, Lanes& dbias) {
#pragma omp simd
  for (int32_t c = 0; c < n; ++c) {
    const float s = 1.0f / (1.0f + exp_f32(-a.v[c]));
    da.v[c] = to_f32(dy[c]) * (silu ? s * (1.0f + a.v[c] * (1.0f - s)) : 1.0f);
    dbias.v[c] += da.v[c];
  }
  for (int32_t j = 0; j < width; ++j)
#pragma omp simd
    for (int32_t c = 0; c < n; ++c) dw[j].v[c] += da.v[c] * window[j].v[c];
}

// Moves a window of `width` rows one token on and loads the next.
template <class T>
inline void shift(std::vector<Lanes>& window, const T* next, int32_t n, int32_t width) {
  for (int32_t j = 0; j + 1 < width; ++j) window[static_cast<size_t>(j)] = window[static_cast<size_t>(j) + 1];
  load(window[static_cast<size_t>(width) - 1], next, n);
}

int64_t first_token(const int32_t* cu, int64_t document) { return cu == nullptr ? 0 : cu[document]; }
int64_t end_token(const int32_t* cu, int64_t document, int64_t tokens) { return cu == nullptr ? tokens : cu[document + 1]; }

template <class T>
void run_fwd(const Conv1dFwd& a, const Launch& launch) {
  const int64_t blocks = (a.channels + kBlock - 1) / kBlock, documents = a.cu == nullptr ? 1 : a.documents;
  parallel_for(launch.parallel, blocks * documents, 1, [&](int64_t begin, int64_t end) {
    std::vector<Lanes> window(static_cast<size_t>(a.width));
    Lanes out{};
    for (int64_t task = begin; task < end; ++task) {
      const int64_t d = task / blocks;
      const int32_t c0 = static_cast<int32_t>(task % blocks) * kBlock, n = std::min(kBlock, a.channels - c0), tail = a.width - 1;
      const Taps t = taps<T>(a.w, a.bias, c0, n, a.width);
      std::vector<Lanes> before(static_cast<size_t>(a.width));
      initial<T>(before, a.initial_state, d, a.channels, c0, n, a.width);
      std::copy(before.begin(), before.begin() + tail, window.begin() + 1);
      const T* x = static_cast<const T*>(a.x) + c0;
      T* y = static_cast<T*>(a.y) + c0;
      const int64_t t0 = first_token(a.cu, d), t1 = end_token(a.cu, d, a.tokens);
      for (int64_t i = t0; i < t1; ++i) {
        shift(window, x + i * a.x_stride, n, a.width);
        pre_activation(window.data(), t, a.width, out);
        write(out, y + i * a.y_stride, n, a.silu);
      }
      if (a.final_state == nullptr) continue;
      for (int32_t j = 0; j < tail; ++j) {  // input t1 - tail + j, or the initial state's column for a short document
        const int64_t i = t1 - tail + j;
        for (int32_t c = 0; c < n; ++c)
          static_cast<T*>(a.final_state)[(d * a.channels + c0 + c) * tail + j] =
              i >= t0 ? x[i * a.x_stride + c] : from_f32<T>(before[static_cast<size_t>(tail - (t0 - i))].v[c]);
      }
    }
  });
}

// dx[t] = sum_j w[j] da[t + width - 1 - j]: da of the next tokens is a window that runs ahead of dx. Documents of a block run in
// order, so that dw is one sum.
template <class T>
void run_bwd(const Conv1dBwd& a, const Launch& launch) {
  const int64_t blocks = (a.channels + kBlock - 1) / kBlock, documents = a.cu == nullptr ? 1 : a.documents;
  const int32_t width = a.width, tail = width - 1;
  parallel_for(launch.parallel, blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<Lanes> window(static_cast<size_t>(width)), ahead(static_cast<size_t>(width)), dw(static_cast<size_t>(width));
    for (int64_t block = begin; block < end; ++block) {
      const int32_t c0 = static_cast<int32_t>(block) * kBlock, n = std::min(kBlock, a.channels - c0);
      const Taps t = taps<T>(a.w, a.bias, c0, n, width);
      std::fill(dw.begin(), dw.end(), Lanes{});
      Lanes dbias{}, pre{}, sum{};
      const T *x = static_cast<const T*>(a.x) + c0, *dy = static_cast<const T*>(a.dy) + c0;
      T* dx = static_cast<T*>(a.dx) + c0;
      for (int64_t d = 0; d < documents; ++d) {
        const int64_t t0 = first_token(a.cu, d), t1 = end_token(a.cu, d, a.tokens);
        std::fill(window.begin(), window.end(), Lanes{});
        std::vector<Lanes> before(static_cast<size_t>(width));
        initial<T>(before, a.initial_state, d, a.channels, c0, n, width);
        std::copy(before.begin(), before.begin() + tail, window.begin() + 1);
        std::fill(ahead.begin(), ahead.end(), Lanes{});
        // Step i brings da[i] in and completes dx[i - tail]; steps past the end bring zeros. Inputs before t0 are the state's.
        for (int64_t i = t0; i < t1 + tail; ++i) {
          for (int32_t j = 0; j + 1 < width; ++j) ahead[static_cast<size_t>(j)] = ahead[static_cast<size_t>(j) + 1];
          ahead[static_cast<size_t>(tail)] = Lanes{};
          if (i < t1) {
            shift(window, x + i * a.x_stride, n, width);
            pre_activation(window.data(), t, width, pre);
            gather(window.data(), pre, dy + i * a.dy_stride, n, width, a.silu, ahead[static_cast<size_t>(tail)], dw.data(), dbias);
          }
          const int64_t at = i - tail;  // ahead[j] is da[at + j]
          if (at < t0 && a.dinitial_state == nullptr) continue;
          correlate(ahead.data(), t, width, sum);
          const int64_t kept = at - (t1 - tail);  // column of the final state that holds this input
          if (a.dfinal_state != nullptr && kept >= 0)
            for (int32_t c = 0; c < n; ++c) sum.v[c] += to_f32(static_cast<const T*>(a.dfinal_state)[(d * a.channels + c0 + c) * tail + kept]);
          if (at >= t0) {
            write(sum, dx + at * a.dx_stride, n, false);
          } else {
            for (int32_t c = 0; c < n; ++c)
              static_cast<T*>(a.dinitial_state)[(d * a.channels + c0 + c) * tail + (tail - (t0 - at))] = from_f32<T>(sum.v[c]);
          }
        }
      }
      for (int32_t c = 0; c < n; ++c) {
        if (a.dw != nullptr)
          for (int32_t j = 0; j < width; ++j) a.dw[static_cast<int64_t>(c0 + c) * width + j] += dw[static_cast<size_t>(j)].v[c];
        if (a.dbias != nullptr) a.dbias[c0 + c] += dbias.v[c];
      }
    }
  });
}

template <class T>
void run_step(const Conv1dStep& a) {
  const int32_t tail = a.width - 1;
  for (int64_t r = 0; r < a.rows; ++r) {
    const int64_t slot = a.slots == nullptr ? r : a.slots[r];
    const T* x = static_cast<const T*>(a.x) + r * a.x_stride;
    T* y = static_cast<T*>(a.y) + r * a.channels;
    for (int32_t c = 0; c < a.channels; ++c) {
      if (slot < 0) {
        y[c] = T{};
        continue;
      }
      T* state = static_cast<T*>(a.state) + (slot * a.channels + c) * tail;
      const T* w = static_cast<const T*>(a.w) + static_cast<int64_t>(c) * a.width;
      float sum = a.bias == nullptr ? 0.0f : to_f32(static_cast<const T*>(a.bias)[c]);
      for (int32_t j = 0; j < tail; ++j) sum += to_f32(w[j]) * to_f32(state[j]);
      sum += to_f32(w[tail]) * to_f32(x[c]);
      for (int32_t j = 0; j + 1 < tail; ++j) state[j] = state[j + 1];
      if (tail > 0) state[tail - 1] = x[c];
      y[c] = from_f32<T>(a.silu ? sum / (1.0f + exp_f32(-sum)) : sum);
    }
  }
}

Support supports(const Device& device, int32_t width, DType dtype) {
  if (const Support s = on_cpu(device, dtype); !s) return s;
  if (width < 1 || width > kMaxWidth) return {"width is not 1..16"};
  return {};
}

}  // namespace

Support supports_conv1d_fwd_cpu(const Conv1dFwd& a, const Device& device) { return supports(device, a.width, a.dtype); }
Support supports_conv1d_bwd_cpu(const Conv1dBwd& a, const Device& device) { return supports(device, a.width, a.dtype); }
Support supports_conv1d_step_cpu(const Conv1dStep& a, const Device& device) { return supports(device, a.width, a.dtype); }
void conv1d_fwd_cpu(const Conv1dFwd& a, const Launch& launch) { a.dtype == DType::kF32 ? run_fwd<float>(a, launch) : run_fwd<bf16>(a, launch); }
void conv1d_bwd_cpu(const Conv1dBwd& a, const Launch& launch) { a.dtype == DType::kF32 ? run_bwd<float>(a, launch) : run_bwd<bf16>(a, launch); }
void conv1d_step_cpu(const Conv1dStep& a, const Launch&) { a.dtype == DType::kF32 ? run_step<float>(a) : run_step<bf16>(a); }

}  // namespace weft::kernels
