/** What the documents link to is there. */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { anchorOf } from "../../../infra/site/anchors.mjs";

const root = path.join(import.meta.dirname, "../../..");

// Outside a checkout (an unpacked archive) nothing is tracked.
describe.skipIf(!existsSync(`${root}/.git`))("documents", () => {
  const files = execFileSync("git", ["ls-files", "*.md", "**/*.md"], { cwd: root, encoding: "utf8" })
    .split("\n")
    .filter((file) => file !== "" && existsSync(path.join(root, file)));

  test.each(files)("%s links to files and headings that are there", (file) => {
    const text = readFileSync(path.join(root, file), "utf8");
    // Not images: they are made from the running page.
    const links = [...text.matchAll(/(?<!!)\[[^\]]*\]\((?!https?:|mailto:)([^)\s]+)\)/g)].map(([, target]) => target);
    const broken = links.filter((link) => {
      const [name, heading] = link.split("#");
      const target = name === "" ? path.join(root, file) : path.resolve(root, path.dirname(file), name);
      if (!existsSync(target)) return true;
      return heading !== undefined && !headingsOf(readFileSync(target, "utf8")).includes(heading);
    });
    expect(broken).toEqual([]);
  });
});

function headingsOf(markdown: string): string[] {
  return [...markdown.matchAll(/^#+ (.+)$/gm)].map(([, heading]) => anchorOf(heading));
}
