/** The common parts of `start` and `start edge`. */
import { rmSync, writeFileSync } from "node:fs";
import { cp } from "node:fs/promises";
import { isIP } from "node:net";
import { networkInterfaces } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Command, InvalidArgumentError, Option } from "commander";
import { onStopRequest, readText } from "../gpu-backend/command-line.ts";
import { currentOf, parsePointer, pointerName } from "../shared/artifacts/bucket.ts";
import { isLoopback } from "../shared/loopback.ts";
import { keptKey } from "./admin-key.ts";
import { artifactsFolder, localKey, pagesFolder, stateFolder } from "./local-edge.ts";
import { claimStateFolder, writeLocalRun } from "./local-run.ts";
import { assertPortsFree, localHost, parsePort, readPort } from "./ports.ts";
import { stageArtifacts } from "./stage-artifacts.ts";
import type { OutsideSocket } from "./workerd/config.ts";
import type { BareEdge } from "./workerd/edge.ts";

export interface EdgeOptions {
  host?: string;
  port?: number;
  tlsCert?: string;
  tlsKey?: string;
  trustProxy: boolean;
  log?: "human" | "json";
  json: boolean;
}

export function withEdgeOptions(command: Command): Command {
  return command
    .option("--port <port>", "port of the edge; EDGE_PORT, or 8787, unless given", port)
    .option(
      "--host <address>",
      "address of the edge, 0.0.0.0 for every interface; EDGE_HOST, or 127.0.0.1, unless given. " +
        "Where other machines reach it, callers need a key that the first start makes, or one of `chameleon keys`",
      address,
    )
    .option("--tls-cert <file>", "serve HTTPS with this certificate and its chain, as PEM")
    .option("--tls-key <file>", "the certificate's private key, as PEM")
    .option(
      "--trust-proxy",
      "every connection comes from a proxy: take the client's address and scheme from x-forwarded-for and x-forwarded-proto",
      false,
    )
    .addOption(
      new Option(
        "--log <form>",
        "human on a terminal unless given; json: every line, with one for each request",
      ).choices(["human", "json"]),
    )
    .option(
      "--json",
      'the ready line as JSON: {"ready":true,"edge":URL,"key":KEY,"backends":[{"url":URL,"pid":N}]}; "keyFile" instead of "key" where other machines reach it',
      false,
    );
}

export const edgeEnvironment = `  EDGE_PORT     port of the edge, 8787 unless set
  EDGE_HOST     address of the edge, 127.0.0.1 unless set
  EDGE_HOSTS    names besides loopback ones that requests may have in Host, separated by commas; any name where --host or
                --trust-proxy lets other machines in
  MODEL_ALIASES JSON object of other names of models, as {"gpt-4o-mini": "smollm2-135m:auto"}
  STATE_DIR     where keys, limits, use and published artifacts are kept, .chameleon unless set
  DRAIN_MS      milliseconds that answers in flight may take after SIGTERM, 10000 unless set; Ctrl-C does not wait`;

/** Time from the first refusal of `/readyz` to the first refused connection: two probes of a load balancer. */
export const noticeMs = 2000;

function port(text: string): number {
  const value = parsePort(text);
  if (value === null) throw new InvalidArgumentError("must be a port from 0 to 65535");
  return value;
}

function address(text: string): string {
  if (text === "localhost") return localHost;
  if (isIP(text) === 0) throw new InvalidArgumentError("must be an IP address of this machine, or 0.0.0.0 for all");
  return text;
}

export interface Place extends OutsideSocket {
  isProxyTrusted: boolean;
}

async function placeOf({ host, port, tlsCert, tlsKey, trustProxy }: EdgeOptions): Promise<Place> {
  if ((tlsCert === undefined) !== (tlsKey === undefined)) {
    throw new InvalidArgumentError("--tls-cert and --tls-key need each other");
  }
  const isSet = tlsCert !== undefined && tlsKey !== undefined;
  return {
    host: host ?? address(process.env.EDGE_HOST || localHost),
    port: port ?? readPort(process.env, "EDGE_PORT", 8787),
    tls: isSet ? { certificate: await readText(tlsCert), privateKey: await readText(tlsKey) } : null,
    isProxyTrusted: trustProxy,
  };
}

export async function preparePlace(options: EdgeOptions, backendPorts: readonly number[] = []): Promise<Place> {
  const place = await placeOf(options);
  claimStateFolder(stateFolder());
  const ofBackends = backendPorts.map((port): [string, number] => ["BACKEND_PORT", port]);
  await assertPortsFree([["EDGE_PORT", place.port, place.host], ...ofBackends]);
  await stageArtifacts(process.env.MODEL_DIR || undefined, path.join(assetsFolder(), "artifacts"));
  return place;
}

export function progressOf({ log }: EdgeOptions): (line: string) => void {
  const written = (line: string) =>
    log === "json" ? JSON.stringify({ level: "info", event: "start", message: line }) : line;
  return (line) => void process.stderr.write(`${written(line)}\n`);
}

let isEnding = false;
/** Waits for running answers and stops the Worker; null until the Worker runs. */
let drain: (() => Promise<void>) | null = null;

/** The first SIGTERM waits for running answers; the second does not. Exit hooks stop child processes. */
export function endOnSignals(): void {
  onStopRequest(
    () => performance.now(),
    (signal) => {
      if (signal !== "SIGTERM" || isEnding || !drain) process.exit(0);
      isEnding = true;
      void drain().finally(() => process.exit(0));
    },
  );
  process.on("SIGHUP", () => process.exit(0));
  process.once("disconnect", () => process.exit(0));
  process.channel?.unref();
}

export function fail(how: string): void {
  if (isEnding) return;
  process.stderr.write(`chameleon: ${how}\n`);
  process.exit(1);
}

export interface ServedEdge {
  /** For other commands on this machine. */
  url: string;
  key: string;
  /** Writes run.json, and prints the ready line. */
  announce(backends: readonly { url: string; pid?: number }[]): Promise<void>;
}

/** Each state folder has its own assets, so that starts with different models do not disturb each other. */
const assetsFolder = () => path.join(stateFolder(), "assets");

export async function serveEdge(
  prepared: BareEdge,
  { place, backendUrls, secrets }: { place: Place; backendUrls: readonly string[]; secrets: string },
  options: EdgeOptions,
): Promise<ServedEdge> {
  const { host, tls, isProxyTrusted } = place;
  const [assets, state] = [assetsFolder(), stateFolder()];
  const drainMs = readDrainMs();
  const isPage = (file: string) => file !== path.join(pagesFolder, "artifacts");
  await cp(pagesFolder, assets, { recursive: true, filter: isPage });
  const drainingFile = path.join(assets, "draining");
  rmSync(drainingFile, { force: true });
  const isOpen = isProxyTrusted || !isLoopback(host);
  const made = isOpen ? await keptKey(state, "api") : null;
  const key = made?.key ?? localKey;
  const { key: adminKey } = await keptKey(state, "admin");
  const outside = tls || host !== localHost ? place : null;
  const vars = {
    BACKEND_URLS: backendUrls.join(","),
    BACKEND_SECRETS: secrets,
    ADMIN_KEY: adminKey,
    ...ownVariables(process.env),
    // The check of the Host header keeps other sites' pages from using the public local key. A secret key needs no such check.
    ...(isOpen && { EDGE_HOSTS: "*" }),
    ...(isProxyTrusted && { TRUST_PROXY: "1" }),
  };
  const settings = { port: outside ? 0 : place.port, outside, vars, assets, keys: { [key]: "local" }, state };
  const workerd = await prepared
    .start(settings, { stderr: process.stderr, showsStdout: options.log === "json" })
    .catch((cause: Error) => {
      throw new Error(`the edge did not start on port ${place.port}: ${cause.message}`, { cause });
    })
    // workerd has read the prepared files by now.
    .finally(() => prepared.remove());
  void workerd.ended.then((how) => fail(`the edge ${how}`));
  drain = async () => {
    writeFileSync(drainingFile, "");
    if (isOpen) await sleep(noticeMs);
    await workerd.drain(drainMs);
  };
  return {
    url: workerd.url,
    key,
    async announce(backends) {
      const published = await publishedManifest();
      if (published) progressOf(options)(`published artifacts come first: ${published} (npm run publish -- --list)`);
      await writeLocalRun(state, { pid: process.pid, edge: workerd.url, key, adminKey, worker: workerd.pid });
      const edge = outside ? urlOf({ ...outside, port: workerd.ports.outside }) : workerd.url;
      process.stdout.write(`${readyText({ edge, key, made, backends }, options, process.stdout.isTTY)}\n`);
    },
  };
}

/** Hash of the published manifest; null without one, or if the pointer to it cannot be read. */
async function publishedManifest(): Promise<string | null> {
  try {
    return currentOf(parsePointer(await readText(path.join(artifactsFolder(), pointerName))));
  } catch {
    return null;
  }
}

function urlOf({ host, port, tls }: OutsideSocket): string {
  return `${tls ? "https" : "http"}://${host.includes(":") ? `[${host}]` : host}:${port}`;
}

export interface Ready {
  edge: string;
  key: string;
  /** File of the secret API key, and whether this start made the key. null if the edge uses the public local key. */
  made: { file: string; isNew: boolean } | null;
  backends: readonly { url: string; pid?: number }[];
}

/** A secret key is shown once, and on a terminal only, because other output may be logged. */
export function readyText(
  { edge, key, made, backends }: Ready,
  { log, json }: Pick<EdgeOptions, "log" | "json">,
  isTerminal: boolean,
): string {
  if (json || log === "json") {
    return JSON.stringify({ ready: true, edge, ...(made ? { keyFile: made.file } : { key }), backends });
  }
  const shownKey = !made || (isTerminal && made.isNew) ? key : `in ${made.file}`;
  if (log !== "human" && !isTerminal) return `ready ${edge} key ${shownKey}`;
  const open = edge.replace("0.0.0.0", outsideAddress()).replace("[::]", outsideAddress());
  const lines = [`open  ${open}`, `key   ${shownKey}`, `docs  ${open}/docs`, "end   Ctrl-C"];
  if (made?.isNew && isTerminal) lines.splice(2, 0, `      it has no limits, and is kept in ${made.file}`);
  return `\nChameleon Edge is ready\n\n${lines.map((line) => `  ${line}`).join("\n")}\n`;
}

function outsideAddress(): string {
  const all = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
  return all.find(({ internal, family }) => !internal && family === "IPv4")?.address ?? localHost;
}

export function readDrainMs(): number {
  const text = process.env.DRAIN_MS || "10000";
  if (/^\d{1,7}$/.test(text) && Number(text) <= 3_600_000) return Number(text);
  throw new Error(`DRAIN_MS is "${text}"; it must be milliseconds from 0 to 3600000`);
}

function ownVariables(env: NodeJS.ProcessEnv): Record<string, string> {
  const names = [
    "EDGE_HOSTS",
    "MODEL_ALIASES",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_TRACES_SAMPLER_ARG",
  ];
  return Object.fromEntries(names.flatMap((name) => (env[name] ? [[name, env[name]]] : [])));
}
