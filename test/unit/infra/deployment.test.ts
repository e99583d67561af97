/** compose.yaml and the dashboard against the code: port, settings, metrics. The images have a test of their own. */
import { expect, test } from "vitest";
import { parse } from "yaml";
import { environmentSchema, readConfig } from "../../../gpu-backend/config.ts";
import { noticeMs } from "../../../infra/serve-edge.ts";
import { backendMetricNames, edgeMetricNames, namesIn } from "../../support/metric-names.ts";
import { read } from "../../support/project.ts";

const preset = readConfig({});

test("compose publishes the edge alone, on loopback, before a backend that is healthy and has the same secret", () => {
  const { services, volumes } = parse(read("infra/compose.yaml"));
  const { edge, backend } = services;
  expect(edge.build).toEqual({ context: "..", dockerfile: "infra/Dockerfile", target: "edge" });
  expect([edge.ports, backend.ports]).toEqual([["127.0.0.1:8787:8787"], undefined]);
  expect(edge.environment.BACKEND_URLS).toBe(`http://backend:${preset.port}`);
  expect(edge.environment.BACKEND_SECRETS).toBe(backend.environment.BACKEND_SECRETS);
  // With `:?`, Compose refuses to start if the variable is not set.
  expect(edge.environment.BACKEND_SECRETS).toMatch(/^\$\{BACKEND_SECRETS:\?/);
  expect(edge.depends_on).toEqual({ backend: { condition: "service_healthy" } });
  expect(edge.read_only).toBe(true);
  expect([edge.volumes, Object.keys(volumes)]).toEqual([["state:/state"], ["state"]]);
  const dockerfile = read("infra/Dockerfile");
  expect(dockerfile).toContain(` STATE_DIR=/state TMPDIR=${edge.tmpfs[0]}\n`);
  expect(dockerfile).toContain('\nVOLUME ["/state"]\nEXPOSE 8787\n');
  const stopMs = Number.parseFloat(edge.stop_grace_period) * 1000;
  expect(stopMs).toBeGreaterThan(Number(edge.environment.DRAIN_MS) + noticeMs);
});

test("compose gives the backend settings that config.ts knows", () => {
  const { backend } = parse(read("infra/compose.yaml")).services;
  expect(backend.build).toEqual({ context: "..", dockerfile: "infra/Dockerfile", target: "cpu" });
  expect(backend.image).toBe("chameleon-backend:cpu");
  // This is the only folder that the image may write to.
  expect(backend.tmpfs).toEqual([`/app/${preset.dataDirectory}`]);
  expect(backend.read_only).toBe(true);
  expect(Object.keys(environmentSchema.shape)).toEqual(expect.arrayContaining(Object.keys(backend.environment)));
  const given = Object.entries<string | null>(backend.environment).filter(([, value]) => value && !value.includes("$"));
  expect(readConfig(Object.fromEntries(given) as Record<string, string>)).toEqual(preset);
  expect(Number.parseFloat(backend.stop_grace_period) * 1000).toBeGreaterThan(preset.drainMs);
});

test("the dashboard shows what is measured, and of the edge everything", async () => {
  const dashboard: { panels: { targets?: { expr: string }[] }[] } = JSON.parse(read("infra/dashboards/chameleon.json"));
  const shown = dashboard.panels.flatMap(({ targets = [] }) => targets).flatMap(({ expr }) => namesIn(expr));
  const measured = [...(await backendMetricNames()), ...(await edgeMetricNames())];
  expect(shown.filter((name) => !measured.includes(name))).toEqual([]);
  expect(measured.filter((name) => name.startsWith("chameleon_edge") && !shown.includes(name))).toEqual([]);
});
