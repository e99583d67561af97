/** `npm run lines`: counts lines of TypeScript by folder, and of source, tests and the core (the reading list of architecture.md). */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { createCommand, parsedOptions } from "../gpu-backend/command-line.ts";

const root = path.dirname(import.meta.dirname);
const maxLines = { source: 50_000, tests: 45_000, core: 6_000 };

const { check = false } = parsedOptions<{ check?: boolean }>(
  createCommand("lines", "Count the lines of source and tests, by folder", ["chameleon lines"]).option(
    "--check",
    `end with 1 above ${maxLines.source} lines of source, ${maxLines.tests} of tests or ${maxLines.core} of the core`,
  ),
);

const tracked = execFileSync("git", ["ls-files", "-z", "*.ts", "*.mjs"], { cwd: root, encoding: "utf8" }).split("\0");
const linesOf = new Map<string, number>();
const sums = { source: 0, tests: 0, core: 0 };
const page = readFileSync(path.join(root, "infra/docs/architecture.md"), "utf8");
const [coreList] = page.split("## The core")[1].split("\n## ");
for (const file of tracked) {
  if (file === "" || !existsSync(path.join(root, file))) continue;
  const lines = readFileSync(path.join(root, file), "utf8").split("\n").length - 1;
  const folder = path.dirname(file).split("/").slice(0, 2).join("/");
  linesOf.set(folder, (linesOf.get(folder) ?? 0) + lines);
  sums[file.startsWith("test/") ? "tests" : "source"] += lines;
  if (coreList.includes(`[\`${file}\`]`)) sums.core += lines;
}
const print = (lines: number, name: string) => process.stdout.write(`${String(lines).padStart(7)}  ${name}\n`);
for (const [folder, lines] of [...linesOf].sort(([a], [b]) => (a < b ? -1 : 1))) print(lines, folder);
for (const kind of ["source", "tests", "core"] as const) {
  print(sums[kind], `${kind}, at most ${maxLines[kind]}`);
  if (check && sums[kind] > maxLines[kind]) process.exitCode = 1;
}
