/** Reads a result, draws its plots and writes the report: report.html, report.md and the plots that the latter shows. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { writeAtomically } from "../atomic-file.ts";
import { type EvaluationResult, resultSchema } from "../evaluation/result.ts";
import { type DrawnPlot, htmlReport, markdownReport } from "./documents.ts";
import { drawSvg } from "./draw.ts";
import { plotsOf } from "./plots.ts";

/** Throws an Error that names the field where the file is no result. Returns the paths of both reports. */
export async function report(resultFile: string, outDirectory: string): Promise<{ html: string; markdown: string }> {
  const result = await readResult(resultFile);
  const plots: DrawnPlot[] = [];
  for (const plot of plotsOf(result)) plots.push({ ...plot, svg: await drawSvg(plot.spec) });
  const html = join(outDirectory, "report.html");
  const markdown = join(outDirectory, "report.md");
  for (const { id, svg } of plots) await writeAtomically(join(outDirectory, `${id}.svg`), svg);
  await writeAtomically(html, htmlReport(result, plots));
  await writeAtomically(markdown, markdownReport(result, plots));
  return { html, markdown };
}

async function readResult(path: string): Promise<EvaluationResult> {
  const text = await readFile(path, "utf8").catch(() => {
    throw new Error(`no result at ${path}; npm run eval makes one`);
  });
  const parsed = resultSchema.safeParse(JSON.parse(text));
  if (!parsed.success) throw new Error(`${path} is not a result of npm run eval: ${z.prettifyError(parsed.error)}`);
  return parsed.data;
}
