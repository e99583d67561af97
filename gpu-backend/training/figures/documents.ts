/**
 * Documents whose tables are rendered from figures: what stands between `<!-- figures: NAME -->` and
 * `<!-- end of figures -->` is the section of that name, and nothing else.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { writeAtomically } from "../atomic-file.ts";
import { type Figures, figuresSchema } from "./data.ts";
import { sections } from "./render.ts";

const root = fileURLToPath(new URL("../../../", import.meta.url));
export const figuresPath = join(root, "gpu-backend/models/chameleon-mini/figures.json");
export const figureDocuments = ["README.md", "gpu-backend/models/chameleon-mini/MODEL_CARD.md"].map((path) =>
  join(root, path),
);

const marked = /<!-- figures: ([\w-]+) -->\n[\s\S]*?<!-- end of figures -->/g;

/** The text with every marked section rendered anew. Throws an Error for a section that does not exist. */
export function withFigures(text: string, figures: Figures): string {
  return text.replaceAll(marked, (_, name: string) => {
    const section = sections[name];
    if (!section) throw new Error(`no figures are called ${name}; there are ${Object.keys(sections).join(", ")}`);
    return `<!-- figures: ${name} -->\n\n${section(figures)}\n\n<!-- end of figures -->`;
  });
}

/** The committed figures; null before they were measured for the first time. */
export async function readFigures(): Promise<Figures | null> {
  const text = await readFile(figuresPath, "utf8").catch(() => null);
  return text === null ? null : figuresSchema.parse(JSON.parse(text));
}

/** Writes the figures as data, and into the documents. */
export async function writeFigures(figures: Figures, path = figuresPath, documents = figureDocuments): Promise<void> {
  await writeAtomically(path, `${JSON.stringify(figures, null, 1)}\n`);
  for (const document of documents) {
    await writeAtomically(document, withFigures(await readFile(document, "utf8"), figures));
  }
}
