/**
 * Every command in the documents runs in a test, is accepted by the parser of the program that it calls, or is on a short list of
 * what cannot run here.
 */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { parseCLI } from "vitest/node";
import { commandsOf } from "../../../infra/commands.mjs";
import { operations } from "../../../infra/openapi/operations.ts";
import { vitestCommands } from "../../../infra/site/programs.ts";
import { commands, documents, executedDocuments, isCheckout, mentionedCommands } from "../../support/documents.ts";
import type { ParseTask } from "../../support/parse-commands.ts";
import { read, root } from "../../support/project.ts";

const { scripts }: { scripts: Record<string, string> } = JSON.parse(read("package.json"));

/** Beginnings of commands that no test runs, and the reason. The files that such a command names must exist nevertheless. */
const notRunHere: Record<string, string> = {
  "docker ": "needs Docker; CI builds the images and starts one, images.test.ts compares the Dockerfile with the code",
  "kubectl ": "needs a cluster; kubernetes.test.ts renders and validates what is applied",
  "{ printf ": "alerts.test.ts runs what comes before kubectl, and validates the object",
  "cp -r gpu-backend/models/smollm2-135m my-model": "readme.test.ts runs it, as part of TRAINING.md's recipe",
  "npm pack --workspaces --include-workspace-root && npm i -g ":
    "package.test.ts packs and installs, in a folder of its own",
};

interface Command {
  file: string;
  line: string;
  /** Whether the command is mentioned in a sentence instead of a code block. */
  isMentioned: boolean;
}

/** Splits a line into words as a shell does, but leaves variables and globs as they are. */
function words(line: string): string[] {
  return [...line.matchAll(/(?:'[^']*'|"[^"]*"|[^\s'"])+/g)].map(([word]) => word.replaceAll(/['"]/g, ""));
}

/** A command without the variables before it, and without `KEY=$(…)` around it. */
function bare(line: string): string {
  return line.replace(/^\w+=\$\((.*)\)$/, "$1").replace(/^([A-Z_]+=\S+ )+/, "");
}

/** The parser that must accept a command, or null if there is none. */
function taskOf({ line, isMentioned }: Command): ParseTask | null {
  const [program, ...args] = words(bare(line).replaceAll(" …", "").replaceAll("HASH", "0123abcd"));
  const namesAlone = isMentioned;
  if (program === "chameleon" && args[0] === "--help") return null;
  const count = args.slice(0, 2).join(" ") in commandsOf(true) ? 2 : 1;
  if (program === "chameleon") return { program: args.slice(0, count).join(" "), args: args.slice(count), namesAlone };
  if (program === "wrangler") return { program, args, namesAlone };
  if (program === "npx" && args[0] === "wrangler") return { program: args[0], args: args.slice(1), namesAlone };
  if (program !== "npm") return null;
  const script = args[0] === "run" ? args.slice(1).find((arg) => arg !== "-s")! : args[0];
  if (!(script in commandsOf(true)) || !(script in scripts)) return null;
  const separator = args.indexOf("--");
  return { program: script, args: separator === -1 ? [] : args.slice(separator + 1), namesAlone };
}

/** Why a command that no parser of ours knows is accepted, or null. */
function reasonFor({ line }: Command): string | null {
  const listed = Object.keys(notRunHere).find((beginning) => line.startsWith(beginning));
  if (listed !== undefined) return notRunHere[listed];
  if (["chameleon --help", "npm run fix"].includes(line)) return "it takes no arguments of ours";
  const [program, ...args] = words(line);
  const target = args.find((arg) => arg.startsWith("http"))?.split("?")[0];
  const isOurs = operations.some(({ path: route }) => target === `http://127.0.0.1:8787${route}`);
  return program === "curl" && isOurs ? "it calls a route of the API" : null;
}

describe.skipIf(!isCheckout)("commands of the documents", () => {
  const executed = new Set(executedDocuments.flatMap(commands));
  // The changelog names commands of earlier releases.
  const current = documents().filter((file) => file !== "CHANGELOG.md");
  const all = current.flatMap((file): Command[] => [
    ...commands(file).map((line) => ({ file, line, isMentioned: false })),
    ...mentionedCommands(file).map((line) => ({ file, line, isMentioned: true })),
  ]);
  const others = all.filter(({ line }) => !executed.has(line));

  test("are accepted by the parser of the program that they call, or are listed", () => {
    expect(executed.size).toBeGreaterThan(10);
    const tasks = others.map(taskOf);
    const parsed = tasks.flatMap((task) => (task && !vitestCommands.includes(task.program) ? [task] : []));
    const input = { cwd: root, input: JSON.stringify(parsed), encoding: "utf8" } as const;
    const { stdout, stderr } = spawnSync(process.execPath, ["test/support/parse-commands.ts"], input);
    expect(stdout, stderr).not.toBe("");
    const problems: (string | null)[] = JSON.parse(stdout);
    const problemOf = (command: Command, task: ParseTask | null) => {
      if (task === null) return reasonFor(command) === null ? "nothing runs or parses it" : null;
      return vitestCommands.includes(task.program) ? vitestProblem(task.args) : problems[parsed.indexOf(task)];
    };
    const wrong = others.map((command, i) => [command.file, command.line, problemOf(command, tasks[i])]);
    expect(wrong.filter(([, , problem]) => problem !== null)).toEqual([]);
  }, 120_000);

  test("name files of the project that exist", () => {
    const named = all.flatMap(({ file, line }) => words(line).map((word) => [file, word]));
    const files = named.filter(([, word]) => /^(edge|gpu-backend|infra|shared|test)\/[\w/.-]+$/.test(word));
    expect(files.filter(([, word]) => !existsSync(path.join(root, word)))).toEqual([]);
  });

  test("each entry of the list of commands that cannot run is used", () => {
    const unused = Object.keys(notRunHere).filter((beginning) => !all.some(({ line }) => line.startsWith(beginning)));
    expect(unused).toEqual([]);
  });
});

function vitestProblem(args: string[]): string | null {
  try {
    const { options } = parseCLI(["vitest", "run", ...args]);
    const projects = [options.project ?? []].flat();
    const config = read("vitest.config.ts");
    const unknown = projects.find((name) => !config.includes(`name: "${name}"`));
    return unknown === undefined ? null : `there is no test project ${unknown}`;
  } catch (error) {
    return String(error);
  }
}
