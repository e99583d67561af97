/** The Worker's entry: makes the app's dependencies from the bindings. */
import { env, waitUntil } from "cloudflare:workers";
import { createSigner } from "../shared/contracts/call-signature.ts";
import { heartbeatMs } from "../shared/contracts/inference.ts";
import { limits } from "../shared/contracts/limits.ts";
import type { Jurisdiction } from "../shared/contracts/tenant-name.ts";
import { ServiceError } from "../shared/errors.ts";
import { isLoopback } from "../shared/loopback.ts";
import { tracesBody } from "../shared/observability/otlp.ts";
import { AnswerBodies, workerBodyBytes } from "./answer/answer-body.ts";
import { paced } from "./api/paced.ts";
import { createApp } from "./app.ts";
import { ArtifactSets, artifactLimits } from "./artifacts/artifact-sets.ts";
import { artifactsMissing } from "./artifacts/artifacts.ts";
import { deployedSet, publishedSets } from "./artifacts/deployed.ts";
import { createWaker } from "./cell/cell-names.ts";
import { createCells } from "./cell/resumable-answer.ts";
import { configured, isContainer, readConfig } from "./config.ts";
import { addressesIn, urlOf } from "./dispatch/addresses.ts";
import { BackendClient } from "./dispatch/client.ts";
import { holdingOf, readinessOf } from "./dispatch/routing.ts";
import { EdgeMetrics } from "./platform/edge-metrics.ts";
import { logFailure } from "./platform/log.ts";
import { objectNamed } from "./platform/objects.ts";
import { post, service } from "./platform/otlp-export.ts";
import type { Region } from "./platform/region.ts";
import { createAdmissions } from "./tenants/admission.ts";
import { BodyReads } from "./tenants/body-reads.ts";
import { KeyRecords } from "./tenants/key-records.ts";
import { createKeyStore } from "./tenants/keys.ts";
import { createRecords } from "./tenants/records.ts";
import { usageReport, workerRecorder } from "./tenants/settlements.ts";
import { createTenantAdapters } from "./tenants/tenant-adapters.ts";

export { Cell } from "./cell/cell.ts";
export { BackendContainer } from "./platform/container.ts";
export { TenantAdapterStore } from "./tenant-object.ts";
export { Ledger } from "./tenants/ledger.ts";

const config = readConfig(env);
const { backendSecrets, backends, otlp } = config;

const now = () => Date.now();
const logEvent = (level: "info" | "warn", event: string, fields: object) =>
  console[level](JSON.stringify({ level, event, ...fields }));

const newId = () => crypto.randomUUID().replaceAll("-", "");
if (backendSecrets.length === 0 && backends.some(({ url }) => !isLoopback(new URL(urlOf(url, null)).hostname))) {
  const message = "Calls to the backends are not signed, so these must take them from anybody: set BACKEND_SECRETS.";
  logEvent("warn", "unsigned_calls", { message });
}
/** Makes new clients for each request, because workerd forbids a request to await another request's work. */
const newClients = configured(env, ({ backendSecrets, backends, backendFetch }) => {
  const sign = createSigner(backendSecrets, now);
  return (jurisdiction: Jurisdiction | null) =>
    addressesIn(jurisdiction, backends).map(({ url }) => new BackendClient(url, { sign, fetch: backendFetch }));
});
const clients = (jurisdiction: Jurisdiction | null = null) => newClients()(jurisdiction);
const metrics = new EdgeMetrics(otlp, now);

const sets = new ArtifactSets({
  source: publishedSets(env, { cache: caches.default, background: waitUntil }),
  assets: () => deployedSet(env),
  holding: async (manifestHash) => holdingOf(await readinessOf(clients(), artifactLimits.holdingMs), manifestHash),
  now,
  background: waitUntil,
  observe: ({ event, ...what }) => {
    metrics.artifactsChanged({ event, ...what });
    if (event !== "artifacts_refused") return logEvent("info", event, what);
    logEvent("warn", event, { manifest: what.manifest, cause: String(what.cause) });
  },
});

const cells = {
  namespace: (name: string, region: Region) => objectNamed(env.CELLS, name, region),
  cellsPerRegion: config.cellsPerRegion,
};
const wakeCell = createWaker(cells, waitUntil);

const keys = createKeyStore(
  config.tenantKeys,
  createRecords(env.TENANTS, now, waitUntil),
  now,
  env.KEY_LOOKUPS,
  config.aliases,
  config.adminKey,
);

const app = createApp({
  artifacts: () =>
    sets.current().catch((cause) => {
      throw artifactsMissing(cause);
    }),
  artifactsOf: sets.of,
  keys,
  requireAdmin: keys.requireAdmin,
  keyRecords: new KeyRecords(env.TENANTS, now, () => crypto.getRandomValues(new Uint8Array(32))),
  artifactBucket: env.ARTIFACTS ?? null,
  bodyReads: new BodyReads(),
  documentReads: new BodyReads(limits.documentBodyBytes),
  bodies: new AnswerBodies({ maximumBytes: workerBodyBytes, ofRequests: true }),
  beginAdmission: createAdmissions({
    ledgers: env.LEDGERS,
    background: waitUntil,
    now,
    recorder: workerRecorder(env.LEDGERS, usageReport(env)),
    log: logFailure,
  }),
  usage: (tenant, from, to) => objectNamed(env.LEDGERS, tenant).usage(from, to),
  eraseUse: (tenant) => objectNamed(env.LEDGERS, tenant).erase(),
  adapters: createTenantAdapters({ stores: env.ADAPTERS, clients, now, background: waitUntil }),
  wakeCell: (tenant, region) => {
    if (!sets.isLoaded) wakeCell(tenant, region);
  },
  cells: createCells({
    ...cells,
    now,
    lost: (requestId, cause) => logEvent("warn", "cell_lost", { requestId, cause: String(cause) }),
  }),
  readiness: () => readinessOf(clients()),
  hasContainers: backends.some(isContainer),
  asset,
  tracing: {
    sampleRatio: otlp ? config.traceRatio : 0,
    ended: (span) => {
      if (otlp) waitUntil(post(otlp, "/v1/traces", tracesBody(service, [span])));
    },
    logRequest: (fields) => {
      logEvent("info", "request", fields);
      metrics.requested(fields);
      waitUntil(metrics.report());
    },
  },
  background: waitUntil,
  version: config.version,
  now,
  newId,
  randomSeed: () => crypto.getRandomValues(new Uint32Array(1))[0],
  log: logFailure,
  heartbeatMs,
});

export default { fetch: paced((request, arrival) => app.fetch(request, arrival), now) };

async function asset(path: string): Promise<Response> {
  const response = await env.ASSETS.fetch(`https://assets${path}`);
  if (response.ok) return response;
  throw new ServiceError("not_found", `${path} is no part of this deployment.`);
}
