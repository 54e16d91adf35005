#include "train/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "base/text.h"

namespace weft::train {
namespace {

constexpr double kWidth = 900, kHeight = 230, kLeft = 78, kRight = 20, kTop = 34, kBottom = 34;
constexpr const char* kColours[] = {"#1f6fb4", "#d1493f", "#3c8d40", "#8a5fb0"};

struct Scale {
  double low, high, from, to;
  bool log;
  double operator()(double v) const {
    const double a = log ? std::log10(low) : low, b = log ? std::log10(high) : high, x = log ? std::log10(v) : v;
    return from + (x - a) / (b - a) * (to - from);
  }
};

// Round values, about `want` of them, that span [low, high].
std::vector<double> ticks(const Scale& s, int want) {
  std::vector<double> out;
  static const std::vector<double> kParts[] = {{1}, {1, 2, 5}, {1, 1.5, 2, 3, 4, 5, 7}};  // of a decade: the coarsest that marks three places
  for (size_t i = 0; s.log && i < std::size(kParts); ++i) {
    out.clear();
    for (double decade = std::pow(10, std::floor(std::log10(s.low))); decade <= s.high; decade *= 10)
      for (double m : kParts[i])
        if (decade * m >= s.low * 0.999 && decade * m <= s.high * 1.001) out.push_back(decade * m);
    if (out.size() >= 3) return out;
  }
  out.clear();
  const double raw = (s.high - s.low) / want, power = std::pow(10, std::floor(std::log10(raw)));
  const double step = power * (raw / power < 1.5 ? 1 : raw / power < 3.5 ? 2 : raw / power < 7.5 ? 5 : 10);
  for (double v = std::ceil(s.low / step) * step; v <= s.high + 1e-9 * step; v += step) out.push_back(std::fabs(v) < 1e-9 * step ? 0 : v);
  return out;
}

std::string label(double v) { return std::fabs(v) >= 10000 ? human_count(v) : fmt::format("{:.4g}", v); }

std::string escape(const std::string& s) {
  std::string out;
  for (char c : s) out += c == '<' ? "&lt;" : c == '&' ? "&amp;" : c == '>' ? "&gt;" : std::string(1, c);
  return out;
}

bool usable(const Panel& p, double v) { return std::isfinite(v) && (!p.log_scale || v > 0); }

std::string panel(const Panel& p, double top, double x0, double x1) {  // all panels of a picture have the same steps
  double y0 = 1e300, y1 = -1e300;
  for (const Curve& c : p.curves)
    for (auto [x, y] : c.points)
      if (usable(p, y)) y0 = std::min(y0, y), y1 = std::max(y1, y);
  std::string s = fmt::format("<text x='{}' y='{}' class='t'>{}</text>\n", kLeft, top + 20, escape(p.title + (p.log_scale ? ", logarithmic" : "")));
  if (y0 > y1) return s + fmt::format("<text x='{}' y='{}'>no values</text>\n", kLeft, top + kHeight / 2);
  if (x1 == x0) x1 = x0 + 1;
  const double pad = p.log_scale ? 0 : 0.05 * (y1 - y0);
  y0 -= pad, y1 += pad;
  if (y1 == y0) y1 = y0 + std::max(std::fabs(y0) * 0.1, 1e-12), y0 -= p.log_scale ? 0 : std::max(std::fabs(y0) * 0.1, 1e-12);
  const Scale x{x0, x1, kLeft, kWidth - kRight, false}, y{y0, y1, top + kHeight - kBottom, top + kTop, p.log_scale};
  for (double v : ticks(y, 5))
    s += fmt::format("<line x1='{}' x2='{}' y1='{:.1f}' y2='{:.1f}' class='g'/><text x='{}' y='{:.1f}' class='r'>{}</text>\n", kLeft, kWidth - kRight, y(v), y(v), kLeft - 6, y(v) + 4, label(v));
  for (double v : ticks(x, 8)) s += fmt::format("<text x='{:.1f}' y='{}' class='m'>{}</text>\n", x(v), top + kHeight - kBottom + 18, label(v));
  s += fmt::format("<text x='{}' y='{}' class='r'>step</text>\n", kLeft - 14, top + kHeight - kBottom + 18);
  double right = kWidth - kRight;
  for (size_t i = 0; i < p.curves.size(); ++i) {
    const Curve& c = p.curves[i];
    const char* colour = kColours[i % std::size(kColours)];
    std::string path;
    for (auto [px, py] : c.points)
      if (usable(p, py)) path += fmt::format("{:.1f},{:.1f} ", x(px), y(py));
    s += fmt::format("<polyline points='{}' fill='none' stroke='{}' stroke-width='1.4'/>\n", path, colour);
    if (c.points.size() <= 60)
      for (auto [px, py] : c.points)
        if (usable(p, py)) s += fmt::format("<circle cx='{:.1f}' cy='{:.1f}' r='2.4' fill='{}'/>\n", x(px), y(py), colour);
    s += fmt::format("<text x='{:.0f}' y='{}' class='r' style='fill:{}'>{}</text>\n", right, top + 20, colour, escape(c.name));
    right -= 8.5 * static_cast<double>(c.name.size()) + 16;
  }
  return s;
}

}  // namespace

std::string draw(const std::string& title, const std::vector<Panel>& panels) {
  const double height = 44 + kHeight * static_cast<double>(panels.size());
  std::string s = fmt::format("<svg xmlns='http://www.w3.org/2000/svg' width='{}' height='{}' viewBox='0 0 {} {}'>\n", kWidth, height, kWidth, height) +
                  "<style>text{font:12px sans-serif;fill:#444}.t{font-weight:bold;fill:#222}.h{font:bold 15px sans-serif;fill:#111}.r{text-anchor:end}"
                  ".m{text-anchor:middle}.g{stroke:#e2e2e2}</style>\n<rect width='100%' height='100%' fill='white'/>\n" +
                  fmt::format("<text x='{}' y='26' class='h'>{}</text>\n", kLeft, escape(title));
  double x0 = 1e300, x1 = -1e300;
  for (const Panel& p : panels)
    for (const Curve& c : p.curves)
      for (auto [x, y] : c.points)
        if (usable(p, y)) x0 = std::min(x0, x), x1 = std::max(x1, x);
  for (size_t i = 0; i < panels.size(); ++i) s += panel(panels[i], 36 + kHeight * static_cast<double>(i), x0, x1);
  return s + "</svg>\n";
}

std::vector<Panel> read_panels(const std::string& path) {
  Curve loss{"training", {}}, val{"validation", {}}, norm{"gradient norm", {}}, speed{"tokens/s", {}};
  const std::string text = read_file(path);
  size_t number = 0;
  for (const std::string& line : split(text, '\n')) {
    ++number;
    if (trim(line).empty()) continue;
    const Json j = parse_json(line, fmt::format("{}, line {}", path, number));
    const auto put = [&](Curve& c, const char* key) {
      if (j.contains("step") && j.contains(key) && j[key].is_number()) c.points.emplace_back(j["step"].get<double>(), j[key].get<double>());
    };
    put(loss, "loss"), put(val, "val_loss"), put(norm, "grad_norm"), put(speed, "tokens_per_second");
  }
  if (loss.points.empty()) throw InputError(path + ": no step is in it yet");
  std::vector<Panel> out{{"loss, nats a token", {loss}, false}, {"gradient norm before clipping", {norm}, true}, {"throughput, tokens/s", {speed}, false}};
  if (!val.points.empty()) out[0].curves.push_back(val);
  return out;
}

}  // namespace weft::train
