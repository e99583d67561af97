/**
 * The engine's thread: a step blocks its thread, so session, KV and planner live here and HTTP does not. What concerns
 * one sequence alone the engine ends with that sequence. Anything thrown here concerns all of them, such as a failed run
 * of the session: it ends the thread, the client on the main thread ends every open sequence in `backend_unavailable`,
 * and the edge resumes them on another backend.
 */
import { setImmediate } from "node:timers/promises";
import { parentPort, workerData } from "node:worker_threads";
import { type Frame, greedySampling, type SequenceRequest } from "../../shared/contracts/inference.ts";
import type { ServiceError } from "../../shared/errors.ts";
import { AdapterCache } from "../adapters/adapter-cache.ts";
import { generatedAdapters, servedBank, servedPool } from "../adapters/generated.ts";
import { withInstantAdapters } from "../adapters/instant/source.ts";
import { InstantStore } from "../adapters/instant/store.ts";
import { LruPolicy } from "../adapters/lru.ts";
import { PrefixCache } from "../kv/prefix-cache.ts";
import { selectDevice } from "../runtime/device-probe.ts";
import { createStepRunner } from "../runtime/onnx-runner.ts";
import { readArtifacts } from "./artifacts.ts";
import { Engine, type EngineParts } from "./engine.ts";
import type { EngineSettings, FromEngine, ToEngine } from "./messages.ts";

if (!parentPort) throw new Error("worker.ts runs as a worker thread; start main.ts");
await serve(parentPort, workerData as EngineSettings);

async function serve(port: NonNullable<typeof parentPort>, settings: EngineSettings): Promise<void> {
  const { model, manifest, manifestHash, tokenizer, hyperNetwork } = await readArtifacts(
    settings.modelDirectory,
    settings.artifactsDirectory,
  );
  const { threads, weightFormat: format } = settings;
  const now = () => performance.now();
  const { device, warning } = await selectDevice({ setting: settings.device, format, threads, now });
  const bank = servedBank(manifest, hyperNetwork);
  const pool = servedPool(manifest, settings.adapterSlots);
  const runner = await createStepRunner({ ...model, bank, pool, threads, format, device });
  const source = withInstantAdapters(
    generatedAdapters(manifest, hyperNetwork, setImmediate),
    new InstantStore(settings.dataDirectory, settings.tenantAdapterBytes, () => new Date()),
    { manifestHash, gates: bank.gates, rank: pool?.rank ?? 0, ...model.config },
  );
  const say = (message: FromEngine) => port.postMessage(message);
  let emit: EngineParts["emit"] = requireToken;
  const engine = new Engine({
    runner,
    adapters: new AdapterCache(source, settings.adapterCacheBytes, now),
    prefixCache: settings.prefixCacheBytes > 0 ? new PrefixCache(new LruPolicy(settings.prefixCacheBytes)) : null,
    limits: settings.limits,
    kvBytes: settings.kvBytes,
    pieceOf: (id) => tokenizer.pieceOf(id),
    now,
    emit: (frames, report) => emit(frames, report),
    faulted: (error) => say({ type: "fault", description: descriptionOf(error) }),
  });
  await engine.submit(null, [probe(model.config.endOfTextId)]);
  while (engine.busy) await engine.step();
  const trace = (id: string, hidden: Float32Array<ArrayBuffer>) =>
    port.postMessage({ type: "hidden", id, hidden } satisfies FromEngine, [hidden.buffer]);
  emit = (frames, report) => say({ type: "frames", frames, report, stats: engine.stats });

  let wake = () => {};
  let isStopping = false;
  let failure: unknown = null;
  port.on("message", (message: ToEngine) => {
    if (message.type === "submit") {
      const fail = (error: unknown) => {
        failure = error;
        wake();
      };
      engine.submit(message.adapterId, message.sequences, message.traced ? trace : null).then(() => wake(), fail);
    } else if (message.type === "cancel") engine.cancel(message.ids);
    else isStopping = true;
    wake();
  });
  say({ type: "ready", info: { manifest, manifestHash, device, deviceWarning: warning } });

  while (!isStopping) {
    if (failure) throw failure;
    if (engine.busy) {
      await engine.step();
      // Lets messages in: what was sent during the step is heard before the next.
      await setImmediate();
    } else {
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  }
  await runner.release();
  port.close();
}

/** The sequence that shows the engine works: one token after the end-of-text token. */
function probe(endOfTextId: number): SequenceRequest {
  return {
    id: "probe",
    tenant: "probe",
    promptIds: [endOfTextId],
    continuedIds: [],
    maxTokens: 1,
    sampling: greedySampling,
    promptLogprobs: false,
    compare: false,
  };
}

/** For the log. Of what others threw only the places: its message may tell tokens. */
function descriptionOf({ message, cause }: ServiceError): string {
  if (!(cause instanceof Error)) return message;
  const places = (cause.stack ?? "").split("\n").filter((line) => line.startsWith("    at "));
  return `${message}\n${cause.name}\n${places.join("\n")}`;
}

function requireToken(frames: Frame[]): void {
  const failure = frames.find((frame) => frame.type === "error");
  if (failure) throw new Error(`the engine cannot generate: ${failure.message}`);
}
