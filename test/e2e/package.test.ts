/** The npm packages as a user meets them: packed, installed globally in an empty folder, started, and called. */
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { glob, readFile, symlink, writeFile } from "node:fs/promises";
import path from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { beforeAll, beforeEach, expect, onTestFinished, test } from "vitest";
import { outsideEnvironment } from "../support/outside.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const root = path.join(import.meta.dirname, "../..");
const run = promisify(execFile);

/** These tests serve the embedded base, so the settings for the other tests' model are left out. */
const { MODEL_DIR, WEIGHT_FORMAT, ...outside } = outsideEnvironment();
const env: NodeJS.ProcessEnv = {
  ...outside,
  PATH: [path.dirname(process.execPath), outside.PATH].join(path.delimiter),
};

/** npm's errors without a registry. Then nothing can be installed, and these tests are reported as skipped. */
const unreachable = /\b(ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ENETUNREACH|ETIMEDOUT|ENOTCACHED)\b/;
let isOffline: boolean;

interface Packed {
  name: string;
  version: string;
  filename: string;
  size: number;
  unpackedSize: number;
  files: { path: string }[];
}

const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;
const print = (line: string) => process.stdout.write(`${line}\n`);

const folder = temporaryFolder();
/** The folder of packages that npm installs globally. */
let modules: string;
let server: Packed;
let base: Packed;
let client: Packed;
beforeAll(async () => {
  const pack = ["pack", "--json", "--workspaces", "--include-workspace-root", "--pack-destination", folder];
  const packed: Packed[] = JSON.parse((await run("npm", pack, { cwd: root, env, maxBuffer: 2 ** 24 })).stdout);
  server = packed.find(({ name }) => name === "chameleon-edge")!;
  base = packed.find(({ name }) => name === "@chameleon-edge/smollm2-135m")!;
  client = packed.find(({ name }) => name === "@chameleon-edge/client")!;
  for (const { filename, size, unpackedSize } of packed) {
    print(`${filename}: ${megabytes(size)}, unpacked ${megabytes(unpackedSize)}`);
  }
  modules = path.join(folder, "lib/node_modules");
  const tarballs = [base, server, client].map(({ filename }) => `./${filename}`);
  const where = ["--global", "--prefix", folder];
  const install = ["install", ...where, "--prefer-offline", "--no-audit", "--no-fund", ...tarballs];
  const startMs = performance.now();
  isOffline = await run("npm", install, { cwd: folder, env }).then(
    () => false,
    (error: { stderr: string }) => {
      if (unreachable.test(error.stderr)) return true;
      throw error;
    },
  );
  print(`installed in ${((performance.now() - startMs) / 1000).toFixed(1)} s`);
}, 300_000);

beforeEach(({ skip }) => skip(isOffline, "the npm registry is out of reach"));

const chameleon = (...args: string[]) => run(path.join(folder, "bin/chameleon"), args, { cwd: folder, env });

test("takes at most 350 MB without weights, and only workerd's script runs when it is installed", async () => {
  const { stdout } = await run("du", ["-sB1", path.join(modules, server.name)]);
  const bytes = Number.parseInt(stdout, 10);
  print(`the server takes ${megabytes(bytes)}`);
  expect(bytes).toBeLessThan(350e6);
  const scripted: string[] = [];
  for await (const file of glob("**/package.json", { cwd: modules })) {
    const { name, scripts = {} } = JSON.parse(await readFile(path.join(modules, file), "utf8"));
    if (scripts.preinstall ?? scripts.install ?? scripts.postinstall) scripted.push(name);
  }
  expect(scripted).toEqual(["workerd"]);
});

/** The command that npx runs is the one that has the package's name. */
test("answers a completion and knows a document, and its own commands find it", async () => {
  const startMs = performance.now();
  const child = spawn(path.join(folder, "bin", server.name), ["start", "--json"], {
    cwd: folder,
    env: { ...env, EDGE_PORT: "0", BACKEND_PORT: "0" },
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
  child.stderr.on("data", (text) => console.error(String(text)));
  const ended = once(child, "close");
  onTestFinished(async () => {
    process.kill(-child.pid!, "SIGTERM");
    await ended;
  });
  const [line] = await once(createInterface({ input: child.stdout }), "line");
  print(`started in ${((performance.now() - startMs) / 1000).toFixed(1)} s`);
  const { edge, key } = JSON.parse(line);
  const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
  const body = JSON.stringify({ messages: [{ role: "user", content: "What is the capital of France?" }] });
  const askMs = performance.now();
  const response = await fetch(`${edge}/v1/chat/completions`, { method: "POST", headers, body });
  expect(await response.json()).toMatchObject({
    model: "smollm2-135m:auto",
    choices: [{ message: { content: expect.stringContaining("Paris") } }],
  });
  print(`answered in ${(performance.now() - askMs).toFixed(0)} ms`);
  for (const page of ["/", "/docs/api", "/openapi.json"]) expect((await fetch(edge + page)).status).toBe(200);
  // The package contains the documents site.
  for (const page of ["/docs", "/docs/start", "/docs/reference/limits"]) {
    const served = await fetch(edge + page);
    expect([page, served.status, served.redirected]).toEqual([page, 200, false]);
  }

  const text = "Tom has 5 apples and buys 3 more, so he has 5+3=<<5+3=8>>8 apples.\n";
  await writeFile(path.join(folder, "text.txt"), text.repeat(4));
  const { stdout } = await chameleon("score", "text.txt", "--json");
  const { base, mixture } = JSON.parse(stdout);
  expect(mixture.nats).toBeLessThan(base.nats);

  await writeFile(
    path.join(folder, "manual.txt"),
    "The pump of unit 7 takes zibble oil every forty hours.\n".repeat(8),
  );
  await chameleon("adapters", "create", "manual", "manual.txt");
  const recalled = await fetch(`${edge}/v1/completions`, {
    method: "POST",
    headers,
    body: JSON.stringify({
      ...{ model: "smollm2-135m:manual", prompt: "The pump of unit 7 takes", max_tokens: 8, temperature: 0 },
      chameleon: { sources: true },
    }),
  });
  expect(await recalled.json()).toMatchObject({
    choices: [
      {
        text: expect.stringContaining("zibble oil"),
        chameleon: { sources: expect.arrayContaining([expect.objectContaining({ share: expect.any(Number) })]) },
      },
    ],
  });
});

test("its commands work without a checkout, and those of developers are not there", async () => {
  expect((await chameleon("doctor")).stdout).toMatch(/^ok {4}artifacts/m);
  expect((await chameleon("bench", "--help")).stdout).toContain("Usage: chameleon bench");
  // These commands call a server, and none runs here.
  for (const args of [
    ["publish", "--list"],
    ["keys", "list"],
  ]) {
    await expect(chameleon(...args)).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^[^\n]*chameleon start[^\n]*\n$/),
    });
  }
  await expect(chameleon("check")).rejects.toMatchObject({ code: 2, stderr: expect.stringContaining("no command") });
  for (const command of ["train", "eval"]) {
    await expect(chameleon(command)).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringMatching(new RegExp(`^chameleon ${command}: name the text with --corpus[^\\n]*\\n$`)),
    });
  }
  // This error comes after the corpus lock was read and the model opened.
  await expect(chameleon("eval", "--corpus", "nothing.txt")).rejects.toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/^chameleon eval: [^\n]*nothing\.txt[^\n]*\n$/),
  });
});

/** The `openai` SDK is installed beside the client, as its users have it. */
test("types the client", async () => {
  expect(client.size).toBeLessThan(50_000);
  await symlink(path.join(root, "node_modules/openai"), path.join(modules, "openai"));
  const source = `
    import "@chameleon-edge/client";
    import { chameleonOptions } from "@chameleon-edge/client/ai-sdk";
    import type OpenAI from "openai";
    export const mode = (completion: OpenAI.Completion): string | undefined => completion.choices[0].chameleon?.mode;
    // @ts-expect-error -- an adapter is no number
    export const options = chameleonOptions({ adapter: 3 });
    console.log(JSON.stringify(options));`;
  const cwd = path.dirname(modules);
  await writeFile(path.join(cwd, "client.mts"), source);
  const tsc = path.join(root, "node_modules/typescript/bin/tsc");
  const strict = ["--strict", "--module", "nodenext", "--target", "es2025", "--skipLibCheck", "client.mts"];
  await run(process.execPath, [tsc, ...strict], { cwd });
  const { stdout } = await run(process.execPath, ["client.mjs"], { cwd });
  expect(stdout).toBe('{"chameleon":{"chameleon":{"adapter":3}}}\n');
});

test("says nothing of the machine that packed it", async () => {
  const options = { cwd: folder, maxBuffer: 2 ** 28, encoding: "buffer" as const };
  const { stdout } = await run("tar", ["-xOzf", server.filename], options);
  expect(stdout.length).toBeGreaterThan(2 ** 20);
  // Latin-1 keeps every byte, also of binary files.
  expect(stdout.toString("latin1").includes(root)).toBe(false);
});

test("holds no weights: the server's package depends on the base's, in the version that is packed", async () => {
  const { dependencies } = JSON.parse(await readFile(path.join(root, "package.json"), "utf8"));
  expect(dependencies[base.name]).toBe(base.version);
  const isWeights = ({ path: file }: { path: string }) => /\.gguf|\.safetensors$/.test(file);
  expect(server.files.filter(isWeights).map(({ path: file }) => file)).toEqual([]);
  expect(base.files.filter(isWeights).length).toBeGreaterThan(2);
});

test("is ready to be published", async () => {
  const { stdout, stderr } = await run("npm", ["publish", "--dry-run", "--json", `./${server.filename}`], {
    cwd: folder,
    env,
  });
  expect(stdout + stderr).toContain("chameleon-edge");
});
