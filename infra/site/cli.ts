/** `npm run docs`: draws the charts, builds the site, and counts its words. */
import { readFileSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { createCommand, runCommand } from "../../gpu-backend/command-line.ts";
import { buildSite, siteFolder } from "./build.ts";
import { documentCharts } from "./charts.ts";
import { pages } from "./pages.ts";

const root = path.join(import.meta.dirname, "../..");

const maxWords = 15_000;
/** Tables of measurements, whose words are not counted. */
const measured = ["gpu-backend/SPEED.md", "gpu-backend/models/smollm2-135m/MODEL_CARD.md"];

const program = createCommand("docs", "Build the documents site, which the next start serves at /docs", [
  "npm run docs",
]).action(async () => {
  const charts = documentCharts((file) => readFileSync(path.join(root, file), "utf8"));
  for (const [name, chart] of Object.entries(charts)) {
    await writeFile(path.join(root, "infra/docs", name), chart);
  }
  await buildSite();
  console.log(`built ${siteFolder}`);
  let total = 0;
  for (const { file, code } of pages) {
    if (code !== null) continue;
    const text = await readFile(path.join(root, file), "utf8");
    const words = text.split(/\s+/).filter((word) => /[\p{L}\d]/u.test(word)).length;
    const isCounted = !measured.includes(file);
    if (isCounted) total += words;
    console.log(`${String(words).padStart(7)}  ${file}${isCounted ? "" : " (measurements, not counted)"}`);
  }
  console.log(`${String(total).padStart(7)}  words, at most ${maxWords}`);
});

await runCommand(program);
