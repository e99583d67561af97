/** The report itself: one HTML file that needs nothing else, and a Markdown summary beside its plots. */
import { trainedMethods } from "../evaluation/methods.ts";
import type { EvaluationResult } from "../evaluation/result.ts";
import type { Plot } from "./plots.ts";
import { findings, warnings, whyTheyDisagree } from "./prose.ts";
import { controlsTable, domainTable, formatTable, methodNames, paperTable, summaryTable, textTable } from "./tables.ts";

export interface DrawnPlot extends Plot {
  svg: string;
}

interface Section {
  title: string;
  paragraphs?: string[];
  bullets?: string[];
  /** Markdown. */
  table?: string;
  plot?: DrawnPlot;
}

export function htmlReport(result: EvaluationResult, plots: readonly DrawnPlot[]): string {
  const sections = sectionsOf(result, plots);
  const body = sections.map(({ title, paragraphs = [], bullets = [], table, plot }) =>
    [
      `<section${plot ? ` id="${plot.id}"` : ""}><h2>${escaped(title)}</h2>`,
      ...paragraphs.map((text) => `<p>${escaped(text)}</p>`),
      bullets.length > 0 ? `<ul>${bullets.map((text) => `<li>${escaped(text)}</li>`).join("")}</ul>` : "",
      table ? htmlTable(table) : "",
      plot ? `<figure>${plot.svg}<figcaption>${escaped(plot.caption)}</figcaption></figure>` : "",
      "</section>",
    ].join("\n"),
  );
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escaped(titleOf(result))}</title><style>${style}</style></head>
<body><main><h1>${escaped(titleOf(result))}</h1>
${body.join("\n")}
</main></body></html>
`;
}

/** Plots are linked as `<id>.svg`, beside the file. */
export function markdownReport(result: EvaluationResult, plots: readonly DrawnPlot[]): string {
  const sections = sectionsOf(result, plots).map(({ title, paragraphs = [], bullets = [], table, plot }) =>
    [
      `## ${title}`,
      ...paragraphs,
      bullets.map((text) => `- ${text}`).join("\n"),
      table ?? "",
      plot ? `![${plot.title}](${plot.id}.svg)\n\n${plot.caption}` : "",
    ]
      .filter((part) => part !== "")
      .join("\n\n"),
  );
  return `# ${titleOf(result)}\n\n${sections.join("\n\n")}\n`;
}

function sectionsOf(result: EvaluationResult, plots: readonly DrawnPlot[]): Section[] {
  const sections: Section[] = [];
  const bullets = findings(result);
  const paragraphs = warnings(result);
  if (bullets.length > 0)
    sections.push({ title: "What it comes to", paragraphs, bullets, table: summaryTable(result) });
  for (const plot of plots) {
    sections.push({ title: plot.title, plot, ...(plot.id === "domains" && { table: domainTable(result) }) });
  }
  if (result.controls) sections.push({ title: "Controls", table: controlsTable(result) });
  if (result.paper) {
    const title = "The paper's table, beside the honest one";
    sections.push({ title, table: paperTable(result.paper), paragraphs: whyTheyDisagree(result) });
  }
  if (result.formats.length > 0) {
    sections.push({ title: "What the weight formats cost", table: formatTable(result) });
  }
  sections.push({ title: "The text, and how it was run", paragraphs: [settingsOf(result)], table: textTable(result) });
  return sections;
}

function titleOf({ model, options }: EvaluationResult): string {
  return `${model.name}: what generated adapters gain${options.quick === true ? " (quick run)" : ""}`;
}

function settingsOf({ model, options, summary, seconds }: EvaluationResult): string {
  const settings = Object.entries(options).map(
    ([name, value]) => `${name} ${Array.isArray(value) ? value.join(", ") : value}`,
  );
  const chosen = trainedMethods.flatMap((method) => {
    const rate = summary[method]?.learningRate;
    return rate ? [`${methodNames[method]}: learning rate ${rate}`] : [];
  });
  return `${model.parameters.toLocaleString("en")} parameters, weights ${model.weights.slice(0, 12)}. ${[...settings, ...chosen].join("; ")}. ${Math.round(seconds)} s in the last run.`;
}

function htmlTable(markdown: string): string {
  const rows = markdown.split("\n").map((line) => line.slice(2, -2).split(" | "));
  const [head, , ...body] = rows;
  const cells = (row: string[], tag: string) => row.map((cell) => `<${tag}>${escaped(cell)}</${tag}>`).join("");
  return `<div class="table"><table><thead><tr>${cells(head, "th")}</tr></thead><tbody>${body
    .map((row) => `<tr>${cells(row, "td")}</tr>`)
    .join("")}</tbody></table></div>`;
}

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}

const style = `
body{margin:0;background:#fff;color:#111827;font:15px/1.55 system-ui,sans-serif}
main{max-width:960px;margin:0 auto;padding:32px 20px}
h1{font-size:26px}h2{font-size:19px;margin:40px 0 10px}
p,li{max-width:76ch}
figure{margin:12px 0}figure svg{max-width:100%;height:auto}figcaption{color:#4b5563;font-size:14px;max-width:76ch}
.table{overflow-x:auto}table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:5px 8px;border-bottom:1px solid #e5e7eb;text-align:right}
th:first-child,td:first-child{text-align:left}th{font-weight:600;background:#f9fafb;white-space:normal;vertical-align:bottom}
`;
