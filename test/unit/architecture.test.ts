/** The source keeps to the rules of the architecture, and a violation of each rule is found. */
import { globSync } from "node:fs";
import { expect, test } from "vitest";
import { edgeLayers, findViolations } from "../support/architecture.ts";
import { read, root } from "../support/project.ts";

test("the source keeps to the rules of the architecture", () => {
  const files = globSync("{shared,edge,gpu-backend,infra}/**/*.ts", { cwd: root }).filter((f) => !f.endsWith(".d.ts"));
  const sources = new Map(files.map((file) => [file, read(file)]));
  expect(sources.size).toBeGreaterThan(0);
  expect(findViolations(sources)).toEqual([]);
});

/** [case, file, source, text of the violation] */
const broken: [string, string, string, string][] = [
  ["shared importing edge", "shared/a.ts", `import { b } from "../edge/b.ts";`, "shared may not import edge/b.ts"],
  ["shared using Node", "shared/a.ts", `import fs from "node:fs";`, "shared may not use node:fs"],
  ["a type import counts", "shared/a.ts", `import type { B } from "../gpu-backend/kv/b.ts";`, "shared may not import"],
  ["an import in a type counts", "shared/a.ts", `let b: import("../edge/b.ts").B;`, "shared may not import edge/b.ts"],
  ["a late import counts", "shared/a.ts", `const b = () => import("../edge/b.ts");`, "shared may not import edge/b.ts"],
  ["a re-export counts", "shared/a.ts", `export { b } from "../edge/b.ts"; let c;`, "shared may not import edge/b.ts"],
  ["edge importing the backend", "edge/cell/a.ts", `import "../../gpu-backend/kv/b.ts";`, "may not import gpu-backend"],
  ["edge using Node", "edge/cell/a.ts", `import "node:fs";`, "edge/cell may not use node:fs"],
  ["a layer of the edge above", "edge/dispatch/a.ts", `import type { B } from "../tenants/b.ts";`, "may not import"],
  ["tenants importing answers", "edge/tenants/a.ts", `import "../answer/b.ts";`, "edge/tenants may not import"],
  ["a cell importing the API", "edge/cell/a.ts", `import "../api/b.ts";`, "edge/cell may not import edge/api"],
  ["middleware importing the app", "edge/api/a.ts", `import "../app.ts";`, "may not import edge/app.ts"],
  ["the client knowing the Worker", "edge/client/a.ts", `import "../api/b.ts";`, "edge/client may not import"],
  ["Hono below the routes", "edge/answer/a.ts", `import { Hono } from "hono";`, "may not use hono"],
  ["a file of no layer", "edge/a.ts", `import "../shared/b.ts";`, "outside the folders"],
  ["the backend importing edge", "gpu-backend/kv/a.ts", `import "../../edge/b.ts";`, "may not import edge/b.ts"],
  ["engine importing http", "gpu-backend/engine/a.ts", `import "../http/b.ts";`, "gpu-backend/engine may not import"],
  [
    "runtime importing engine",
    "gpu-backend/runtime/a.ts",
    `import type { B } from "../engine/b.ts";`,
    "may not import",
  ],
  ["code of a sibling", "gpu-backend/adapters/a.ts", `import { type B, c } from "../runtime/b.ts";`, "only a type may"],
  ["serving importing training", "gpu-backend/main.ts", `import "./training/b.ts";`, "may not import"],
  ["training importing research", "gpu-backend/training/a.ts", `import "../research/b.ts";`, "may not import"],
  ["the backend importing research", "gpu-backend/main.ts", `import "./research/b.ts";`, "may not import"],
  ["ONNX Runtime elsewhere", "gpu-backend/training/a.ts", `import "onnxruntime-node";`, "may not use onnxruntime-node"],
  ["a product file importing a test", "edge/app.ts", `import "../test/b.ts";`, "edge/app.ts may not import test/b.ts"],
  ["a file of no folder", "gpu-backend/extra/a.ts", `import "node:fs";`, "outside the folders"],
  ["a clock", "edge/cell/a.ts", "export const now = () => Date.now();", "make it a parameter"],
  ["a clock by its class", "gpu-backend/kv/a.ts", "export const now = new Date();", "make it a parameter"],
  ["chance", "shared/a.ts", "export const draw = () => Math.random();", "make it a parameter"],
  ["a long file", "edge/cell/a.ts", "let a;\n".repeat(401), "402 lines"],
  ["a vague name", "edge/utils.ts", "let a;", "a name that says what is inside"],
  ["a vague folder", "edge/helpers/a.ts", "let a;", "a name that says what is inside"],
];
test.each(broken)("refuses %s", (_, file, source, violation) => {
  expect(findViolations(new Map([[file, source]]))).toEqual([expect.stringContaining(violation)]);
});

test("the edge's layers import only those before them, so its folders form no cycle", () => {
  const layers = Object.entries(edgeLayers);
  for (const [i, [layer, others]] of layers.entries()) {
    const before = layers.slice(0, i).map(([name]) => name);
    expect(before, layer).toEqual(expect.arrayContaining(others));
  }
});

test("allows what the architecture intends", () => {
  const sources = new Map([
    ["gpu-backend/main.ts", `import "./engine/a.ts"; import "./config.ts";`],
    ["gpu-backend/http/g.ts", "export const ageMs = (now: () => number, at: string) => now() - +new Date(at);"],
    ["edge/worker.ts", "export const now = () => Date.now();"],
    ["gpu-backend/engine/a.ts", `import "../kv/b.ts"; import "../runtime/c.ts"; import "node:worker_threads";`],
    ["gpu-backend/kv/b.ts", `import type { C } from "../runtime/c.ts"; import { type D } from "../runtime/c.ts";`],
    ["gpu-backend/runtime/c.ts", `import * as ort from "onnxruntime-node"; import "../../shared/d.ts";`],
    ["gpu-backend/training/e.ts", `import "../adapters/f.ts"; import { g } from "../runtime/c.ts";`],
    ["gpu-backend/adapters/f.ts", `/**\n * Long because it is one table.\n */\n${"let a;\n".repeat(500)}`],
    ["shared/d.ts", `import { z } from "zod"; const words = "Date.now() in a text is no call";`],
  ]);
  expect(findViolations(sources)).toEqual([]);
});
