/** The npm packages as a user meets them: packed, installed globally in an empty folder, started, and called. */
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { glob, readFile, symlink, writeFile } from "node:fs/promises";
import path from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { beforeAll, beforeEach, expect, onTestFinished, test } from "vitest";
import type { ChatResponse, CompletionResponse } from "../../shared/contracts/responses.ts";
import { outsideEnvironment } from "../support/outside.ts";
import { runningStack } from "../support/stack.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const root = path.join(import.meta.dirname, "../..");
const run = promisify(execFile);

/** These tests serve the embedded base, so the settings for the other tests' model are left out. */
const { MODEL_DIR, WEIGHT_FORMAT, ...outside } = outsideEnvironment();
const env: NodeJS.ProcessEnv = {
  ...outside,
  PATH: [path.dirname(process.execPath), outside.PATH].join(path.delimiter),
};

/** npm's errors if no registry can be reached. Then nothing can be installed, and these tests are reported as skipped. */
const unreachable =
  /\b(ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ENETUNREACH|ETIMEDOUT|ERR_SOCKET_TIMEOUT|ENOTCACHED)\b/;
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
const modules = path.join(folder, "lib/node_modules");
let [server, base, client]: Packed[] = [];
beforeAll(async () => {
  const pack = ["pack", "--json", "--workspaces", "--include-workspace-root", "--pack-destination", folder];
  const packed: Packed[] = JSON.parse((await run("npm", pack, { cwd: root, env, maxBuffer: 2 ** 24 })).stdout);
  server = packed.find(({ name }) => name === "chameleon-edge")!;
  base = packed.find(({ name }) => name === "@chameleon-edge/smollm2-135m")!;
  client = packed.find(({ name }) => name === "@chameleon-edge/client")!;
  for (const { filename, size, unpackedSize } of packed) {
    print(`${filename}: ${megabytes(size)}, unpacked ${megabytes(unpackedSize)}`);
  }
  const tarballs = [base, server, client].map(({ filename }) => `./${filename}`);
  const where = ["--global", "--prefix", folder];
  // By default npm waits five minutes for a download that stalls, which is this hook's whole time.
  const fetching = ["--prefer-offline", "--fetch-timeout=45000"];
  const install = ["install", ...where, ...fetching, "--no-audit", "--no-fund", ...tarballs];
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

/** Starts the command that has the package's name, because npx runs that one. */
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
  const stack = runningStack({ edge, key, state: folder, backends: [] });
  const question = { messages: [{ role: "user", content: "What is the capital of France?" }] };
  const askMs = performance.now();
  const answer = await stack.ask<ChatResponse>("/v1/chat/completions", question);
  expect(answer.model).toBe("smollm2-135m:auto");
  expect(answer.choices[0].message.content).toContain("Paris");
  print(`answered in ${(performance.now() - askMs).toFixed(0)} ms`);
  for (const page of ["/", "/docs/api", "/openapi.json"]) expect((await fetch(edge + page)).status).toBe(200);
  // The package contains the documents site.
  for (const page of ["/docs", "/docs/start", "/docs/reference/limits"]) {
    const served = await fetch(edge + page);
    expect([page, served.status, served.redirected]).toEqual([page, 200, false]);
  }

  const text = "Mary bakes 9 cookies and sells them for $2 each.\nShe earns 9*2=$<<9*2=18>>18.\n#### 18\n";
  await writeFile(path.join(folder, "text.txt"), text);
  const { stdout } = await chameleon("score", "text.txt", "--json");
  const { base, mixture } = JSON.parse(stdout);
  expect(mixture.nats).toBeLessThan(base.nats);

  const manual = "The pump of unit 7 takes zibble oil every forty hours.\n".repeat(8);
  await writeFile(path.join(folder, "manual.txt"), manual);
  await chameleon("adapters", "create", "manual", "manual.txt");
  const asked = { model: "smollm2-135m:manual", prompt: "The pump of unit 7 takes", max_tokens: 8, temperature: 0 };
  const recalling = { ...asked, chameleon: { sources: true } };
  const [recalled] = (await stack.ask<CompletionResponse>("/v1/completions", recalling)).choices;
  expect(recalled.text).toContain("zibble oil");
  const aShare = expect.objectContaining({ share: expect.any(Number) });
  expect(recalled.chameleon!.sources).toEqual(expect.arrayContaining([aShare]));
});

test("its commands work without a checkout, and those of developers are not there", async () => {
  expect((await chameleon("doctor")).stdout).toMatch(/^ok {4}artifacts/m);
  expect((await chameleon("bench", "--help")).stdout).toContain("Usage: chameleon bench");
  for (const [command, code, message] of [
    // These two commands call a server, and none runs here.
    ["publish --list", 1, /^[^\n]*chameleon start[^\n]*\n$/],
    ["keys list", 1, /^[^\n]*chameleon start[^\n]*\n$/],
    ["check", 2, /no command/],
    ["train", 1, /^chameleon train: name the text with --corpus[^\n]*\n$/],
    ["eval", 1, /^chameleon eval: name the text with --corpus[^\n]*\n$/],
    // This error comes after the corpus lock was read and the model opened.
    ["eval --corpus nothing.txt", 1, /^chameleon eval: [^\n]*nothing\.txt[^\n]*\n$/],
  ] as const) {
    const refusal = { code, stderr: expect.stringMatching(message) };
    await expect(chameleon(...command.split(" ")), command).rejects.toMatchObject(refusal);
  }
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
