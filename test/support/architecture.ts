/**
 * Rules of imports, and other rules that a reader cannot check by eye. Pure: maps sources to violations, so that tests can run the rules on
 * sources that break them.
 */
import path from "node:path/posix";
import { parseAst } from "vitest/node";

/**
 * The layers of the Worker, lowest first, each with the layers that it may import besides `shared`. A test checks that they form no cycle.
 */
export const edgeLayers: Record<string, string[]> = {
  platform: [],
  dispatch: ["platform"],
  "config.ts": ["dispatch", "platform"],
  tenants: ["config.ts", "dispatch", "platform"],
  artifacts: ["dispatch", "platform"],
  plan: ["artifacts", "platform", "tenants"],
  answer: ["dispatch", "plan", "platform", "tenants"],
  cell: ["answer", "artifacts", "config.ts", "dispatch", "plan", "platform", "tenants"],
  api: ["answer", "artifacts", "cell", "dispatch", "plan", "platform", "tenants"],
  "app.ts": ["api"],
  "tenant-object.ts": ["artifacts", "config.ts", "plan", "platform", "tenants"],
  "worker.ts": [
    ...["answer", "api", "app.ts", "artifacts", "cell", "config.ts", "dispatch", "platform", "tenant-object.ts"],
    "tenants",
  ],
  "local-storage.ts": ["artifacts", "tenants"],
  "local-worker.ts": ["platform", "worker.ts"],
};

const inBackend = (...names: string[]) => names.map((name) => `gpu-backend/${name}`);
/** The backend's layers, each with the layers that it may import besides `shared`. */
const engineParts = ["adapters", "kv", "lru.ts", "memory", "runtime", "tenant-files"];
const backendLayers: Record<string, string[]> = {
  "files.ts": [],
  "lru.ts": [],
  "command-line.ts": [],
  "settings.ts": [],
  "models/embedded.ts": [],
  "config.ts": ["models/embedded.ts", "settings.ts"],
  "tenant-files": ["files.ts", "lru.ts"],
  adapters: ["files.ts", "lru.ts"],
  runtime: [],
  // Tenants' documents as keys, which sessions of ONNX Runtime search.
  memory: ["runtime"],
  // Keeps keys and values in the host's memory or a GPU's.
  kv: ["runtime"],
  "models/gguf": ["runtime"],
  "models/safetensors": ["runtime"],
  "models/tokenizer-source.ts": ["models/gguf"],
  "models/tokenizer-files.ts": ["runtime", "models/tokenizer-source.ts", "files.ts"],
  "models/weights-record.ts": ["models/gguf", "files.ts"],
  "models/base.ts": [
    "runtime",
    "models/gguf",
    "models/safetensors",
    "models/tokenizer-files.ts",
    "models/tokenizer-source.ts",
    "models/weights-record.ts",
  ],
  engine: [...engineParts, "models/base.ts", "models/weights-record.ts", "files.ts"],
  host: ["engine", ...engineParts, "files.ts"],
  http: ["host", "engine", ...engineParts],
  "main.ts": [
    ...["http", "host", "engine", ...engineParts, "models/base.ts"],
    ...["command-line.ts", "config.ts", "settings.ts"],
  ],
  training: [
    ...["adapters", "engine/smoothing-file.ts", "memory", "models/base.ts", "models/embedded.ts", "runtime"],
    ...["command-line.ts", "files.ts"],
  ],
  // Compares what is shipped with the paper's method. No layer imports this one.
  research: [
    ...["adapters", "memory", "models/base.ts", "models/embedded.ts", "runtime", "training"],
    // Research computes long prompts with the backend's runner.
    ...["engine/open-model.ts", "kv/host-runner.ts", "kv/runner.ts"],
    ...["command-line.ts", "files.ts"],
  ],
  // Prepares a model offline, and reads the result with the code that serves.
  models: [
    "engine/artifacts.ts",
    "engine/smoothing-file.ts",
    "runtime",
    "training",
    "files.ts",
    "command-line.ts",
    "config.ts",
  ],
};
const commandFiles = inBackend("command-line.ts", "config.ts", "files.ts");

/** Folder or file → files it may import besides itself and `shared`. The longest matching prefix decides. */
const mayImport: Record<string, string[]> = {
  shared: [],
  ...Object.fromEntries(
    Object.entries(edgeLayers).map(([layer, others]) => [`edge/${layer}`, others.map((other) => `edge/${other}`)]),
  ),
  // Customers' programs and browsers run these folders, which know nothing of the Worker.
  "edge/client": [],
  "edge/page": [],
  ...Object.fromEntries(
    Object.entries(backendLayers).map(([layer, others]) => [`gpu-backend/${layer}`, inBackend(...others)]),
  ),
  infra: [...commandFiles, ...inBackend("models/embedded.ts")],
  "infra/api": ["infra", ...commandFiles, ...inBackend("training/progress.ts")],
  // The doctor checks with the code that serves.
  "infra/doctor": [
    "infra",
    ...commandFiles,
    ...inBackend("engine/artifacts.ts", "host/device-check.ts", "host/memory-plan.ts", "models/base.ts"),
  ],
  // The site prints metrics and settings out of their code.
  "infra/site": ["infra", "edge/platform/edge-metrics.ts", ...commandFiles, ...inBackend("http", "settings.ts")],
  // Publishing refuses a set with the code that would refuse it in service.
  "infra/publish": ["infra", "edge/artifacts/artifacts.ts", ...commandFiles, ...inBackend("adapters", "memory")],
};

/** Folder → packages that it may import: a name, or a scheme such as `node:`. `gpu-backend` applies to all its folders. */
const mayUse: Record<string, string[]> = {
  shared: ["@huggingface/jinja", "zod"],
  edge: ["zod"],
  ...Object.fromEntries(
    ["cell", "local-worker.ts", "platform", "tenants", "worker.ts"].map((name) => [`edge/${name}`, ["cloudflare:"]]),
  ),
  "edge/app.ts": ["hono"],
  "edge/api": ["hono", "html-to-text"],
  "edge/client": ["openai"],
  "gpu-backend": ["node:", "zod"],
  "gpu-backend/engine": ["@mlc-ai/web-xgrammar", "refa"],
  "gpu-backend/runtime": ["onnxruntime-node", "protobufjs"],
  "gpu-backend/host": ["aws4fetch"],
  "gpu-backend/http": ["@hono/node-server", "hono", "prom-client"],
  "gpu-backend/command-line.ts": ["commander"],
  "gpu-backend/settings.ts": ["commander"],
  "gpu-backend/main.ts": ["@hono/node-server"],
  "gpu-backend/research": ["commander"],
  "gpu-backend/training": ["cli-progress", "commander", "html-to-text", "ml-matrix"],
  "gpu-backend/models": ["@huggingface/hub", "commander"],
  infra: ["cli-progress", "commander", "esbuild", "node:", "vitest", "workerd", "wrangler", "zod"],
};

/** Layers of equal rank may import only types of each other. */
const siblings = ["gpu-backend/adapters", "gpu-backend/runtime"];

/** Files that compose parts. Only these read the clock and make random ids. */
const composes =
  /^(infra\/|edge\/(worker|local-storage|client\/resumable|cell\/cell|tenants\/(ledger|tenant-adapter-store)|page\/main)\.ts$|gpu-backend\/(main|engine\/process|(research|training(\/corpus)?)\/cli|models\/import\/cli)\.ts$)/;
const ambientCalls = ["Date.now", "performance.now", "Math.random", "crypto.randomUUID", "crypto.getRandomValues"];
const vagueName = /(^|\/)(utils?|helpers?|common|misc|index)(\.ts|\/)/;
const longestFileLines = 400;
const longFileReason = /^ \* Long because /m;

interface Import {
  specifier: string;
  typeOnly: boolean;
}
interface SyntaxNode {
  type: string;
  [property: string]: unknown;
}

/** `sources`: path from the project root → text. Returns one line for each violation, by path. */
export function findViolations(sources: ReadonlyMap<string, string>): string[] {
  const violations: string[] = [];
  for (const [file, source] of [...sources].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const say = (text: string) => violations.push(`${file}: ${text}`);
    const nodes = [...nodesOf(parseAst(source, { lang: "ts" }, file) as unknown as SyntaxNode)];

    if (vagueName.test(file)) say("a name that says what is inside, not utils, helpers, common, misc or index");
    const lines = source.split("\n").length;
    if (lines > longestFileLines && !longFileReason.test(source.slice(0, 1000))) {
      say(`${lines} lines, over ${longestFileLines} without a "Long because …" in its header`);
    }
    if (!composes.test(file) && nodes.some(isAmbientCall))
      say("takes time or chance from the air; make it a parameter");
    for (const { specifier, typeOnly } of nodes.flatMap(importOf)) {
      const target = specifier.startsWith(".") ? path.join(path.dirname(file), specifier) : specifier;
      const refusal = refusalOf(file, target, specifier.startsWith("."), typeOnly);
      if (refusal) say(refusal);
    }
  }
  return violations;
}

function refusalOf(file: string, target: string, isFile: boolean, typeOnly: boolean): string | undefined {
  const home = Object.keys(mayImport)
    .filter((prefix) => isWithin(file, prefix))
    .sort((a, b) => b.length - a.length)[0];
  if (home === undefined) return "lies outside the folders of the architecture";
  if (!isFile) {
    const names = Object.entries(mayUse).flatMap(([prefix, names]) => (isWithin(file, prefix) ? names : []));
    const isAllowed = (name: string) => (name.endsWith(":") ? target.startsWith(name) : isWithin(target, name));
    return names.some(isAllowed) ? undefined : `${home} may not use ${target}`;
  }
  if ([home, "shared", ...mayImport[home]].some((prefix) => isWithin(target, prefix))) return undefined;
  if (siblings.includes(home) && siblings.some((prefix) => isWithin(target, prefix))) {
    return typeOnly ? undefined : `imports code of its sibling ${target}; only a type may cross`;
  }
  return `${home} may not import ${target}`;
}

function isWithin(file: string, prefix: string): boolean {
  return file === prefix || file.startsWith(`${prefix}/`);
}

function* nodesOf(node: SyntaxNode): Generator<SyntaxNode> {
  yield node;
  for (const value of Object.values(node)) {
    for (const child of Array.isArray(value) ? value : [value]) {
      if (typeof child === "object" && child !== null && typeof child.type === "string") yield* nodesOf(child);
    }
  }
}

/** The module that a node imports: a declaration, a re-export, an expression `import(…)`, or an import within a type. */
function importOf(node: SyntaxNode): Import[] {
  const source = node.source as { value?: unknown } | null | undefined;
  if (typeof source?.value !== "string") return [];
  const isType = node.type === "TSImportType" || node.importKind === "type" || node.exportKind === "type";
  const specifiers = (node.specifiers ?? []) as SyntaxNode[];
  const areTypes = specifiers.length > 0 && specifiers.every(({ importKind }) => importKind === "type");
  return [{ specifier: source.value, typeOnly: isType || areTypes }];
}

function memberName(node: SyntaxNode): string | undefined {
  if (node.type !== "MemberExpression") return undefined;
  const { object, property } = node as unknown as Record<"object" | "property", { name?: string; value?: unknown }>;
  return `${object.name}.${property.name ?? property.value}`;
}

function isAmbientCall(node: SyntaxNode): boolean {
  const callee = node.callee as SyntaxNode & { name?: string };
  if (node.type === "CallExpression") return ambientCalls.includes(memberName(callee) ?? "");
  return node.type === "NewExpression" && callee.name === "Date" && (node.arguments as unknown[]).length === 0;
}
