/** Draws Vega-Lite specifications as SVG, without a browser. */
import { parse, View } from "vega";
import { compile, type TopLevelSpec } from "vega-lite";

const config = {
  background: "white",
  font: "system-ui, sans-serif",
  axis: {
    labelFontSize: 12,
    titleFontSize: 12,
    titleFontWeight: "normal",
    domainColor: "#9ca3af",
    gridColor: "#eef0f2",
  },
  legend: { labelFontSize: 12, labelLimit: 0 },
  view: { stroke: null },
} as const;

export async function drawSvg(spec: TopLevelSpec): Promise<string> {
  const view = new View(parse(compile({ config, ...spec }).spec), { renderer: "none" });
  try {
    return await view.toSVG();
  } finally {
    view.finalize();
  }
}
