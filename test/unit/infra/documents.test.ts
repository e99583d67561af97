/** The targets of links in the documents exist, and the files that the threat model names. */
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { anchorOf } from "../../../infra/site/anchors.mjs";
import { documentCharts } from "../../../infra/site/charts.ts";
import { documents, isCheckout } from "../../support/documents.ts";
import { read, root } from "../../support/project.ts";

describe.skipIf(!isCheckout)("documents", () => {
  test.each(documents())("%s links to files and headings that are there", (file) => {
    const text = read(file);
    // Images are left out: they are made from the running page.
    const links = [...text.matchAll(/(?<!!)\[[^\]]*\]\((?!https?:|mailto:)([^)\s]+)\)/g)].map(([, target]) => target);
    const broken = links.filter((link) => {
      const [name, heading] = link.split("#");
      const target = name === "" ? path.join(root, file) : path.resolve(root, path.dirname(file), name);
      if (!existsSync(target)) return true;
      return heading !== undefined && !headingsOf(readFileSync(target, "utf8")).includes(heading);
    });
    expect(broken).toEqual([]);
  });

  test("every file that the threat model names exists", () => {
    const pattern = /`((?:test|edge|shared|gpu-backend|infra)\/[\w./-]+\.\w+)`/g;
    const named = [...read("edge/SECURITY.md").matchAll(pattern)].map(([, file]) => file);
    expect(named.length).toBeGreaterThan(10);
    expect(named.filter((file) => !existsSync(path.join(root, file)))).toEqual([]);
  });

  test("the charts show the figures beside the model card and in the table of speed", () => {
    const charts = documentCharts(read);
    for (const [name, chart] of Object.entries(charts)) {
      expect(read(`infra/docs/${name}`), `${name}: npm run docs draws it`).toBe(chart);
    }
  });

  test.each(["request", "training"])("the drawing of a %s names folders that exist", (name) => {
    const drawing = read(`infra/docs/${name}.svg`);
    const folders = [...drawing.matchAll(/class="path"[^>]*>([^<]+)</g)].map(([, folder]) => folder);
    expect(folders.length).toBeGreaterThan(5);
    // The drawing of a training names folders within gpu-backend/.
    const isThere = (folder: string) => ["", "gpu-backend"].some((top) => existsSync(path.join(root, top, folder)));
    expect(folders.filter((folder) => !isThere(folder))).toEqual([]);
  });
});

function headingsOf(markdown: string): string[] {
  return [...markdown.matchAll(/^#+ (.+)$/gm)].map(([, heading]) => anchorOf(heading));
}
