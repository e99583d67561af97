/** The alerts: rules that Prometheus accepts, on metrics that exist, each triggered by its cause and explained in the runbook. */
import { execFileSync, spawnSync } from "node:child_process";
import { describe, expect, test } from "vitest";
import { parse } from "yaml";
import { errorKinds, statusOf } from "../../../shared/errors.ts";
import { validateObject } from "../../support/kubernetes.ts";
import { backendMetricNames, edgeMetricNames, namesIn } from "../../support/metric-names.ts";
import { read, root } from "../../support/project.ts";

interface Rule {
  alert?: string;
  record?: string;
  expr: string;
  annotations: { runbook_url: string };
}
interface Scenario {
  input_series: { series: string }[];
  promql_expr_test: { exp_samples: { labels: string }[] }[];
}
const groups: { rules: Rule[] }[] = parse(read("infra/alerts/chameleon.rules.yaml")).groups;
const rules = groups.flatMap((group) => group.rules);
const alerts = rules.filter(({ alert }) => alert !== undefined);
const scenarios: Scenario[] = parse(read("infra/alerts/chameleon.tests.yaml")).tests;

test.skipIf(spawnSync("promtool", ["--version"]).status !== 0)("each alert fires for its cause and ends", () => {
  const output = execFileSync("promtool", ["test", "rules", "infra/alerts/chameleon.tests.yaml"], { cwd: root });
  expect(String(output)).toContain("SUCCESS");
});

test("every alert has a scenario in which it fires, and then does not", () => {
  const shown = scenarios.flatMap(({ promql_expr_test: tests }) => {
    const fired = tests.flatMap(({ exp_samples }) => exp_samples.map(({ labels }) => /"(\w+)"/.exec(labels)![1]));
    if (fired.length > 0) expect(tests.at(-1)!.exp_samples).toEqual([]);
    return fired;
  });
  expect(shown.sort()).toEqual(alerts.map(({ alert }) => alert).sort());
});

test("rules and scenarios use metrics that exist, a backend's of its job alone", async () => {
  const backends = await backendMetricNames();
  const edges = await edgeMetricNames();
  const used = [...rules.map(({ expr }) => expr), ...scenarios.flatMap((one) => one.input_series.map((s) => s.series))];
  for (const expression of used) {
    const names = namesIn(expression).filter((name) => !edges.includes(name));
    expect(names.filter((name) => !backends.includes(name))).toEqual([]);
    const selectors = names.length + expression.split("up{").length - 1;
    expect(expression.split('job="chameleon-backend"')).toHaveLength(selectors + 1);
  }
  const service = read("infra/kubernetes/base/services.yaml");
  expect(service).toContain("app: chameleon-backend");
  expect(read("infra/kubernetes/base/service-monitor.yaml")).toMatch(/^ {2}jobLabel: app$/m);
});

test("the error budget counts every error of ours, and none of a caller's", () => {
  const counted = rules.flatMap(({ expr }) => [...expr.matchAll(/outcome=~"([^"]*)"/g)].map(([, kinds]) => kinds));
  const ours = errorKinds.filter((kind) => statusOf(kind) >= 500);
  expect(counted).toEqual(rules.filter(({ record }) => record).map(() => ours.join("|")));
});

test("the queue alert begins at the queue time at which pods are added", () => {
  const { expr } = alerts.find(({ alert }) => alert === "ChameleonQueueSlow")!;
  const { triggers } = parse(read("infra/kubernetes/base/scaled-object.yaml")).spec;
  expect(/ > ([\d.]+)$/.exec(expr)![1]).toBe(triggers[1].metadata.threshold);
});

describe("the runbook", () => {
  const runbook = read("infra/docs/runbook.md");

  test("has a section for each alert, in their order, which the alert names", () => {
    const headings = [...runbook.matchAll(/^## (\w+)$/gm)].map(([, heading]) => heading);
    expect(headings).toEqual(alerts.map(({ alert }) => alert));
    for (const { alert, annotations } of alerts) {
      expect(annotations.runbook_url).toBe(`infra/docs/runbook.md#${alert!.toLowerCase()}`);
    }
  });

  test("names metrics that exist", async () => {
    const measured = [...(await backendMetricNames()), ...(await edgeMetricNames())].join("\n");
    expect(namesIn(runbook).filter((name) => !measured.includes(name))).toEqual([]);
  });

  test("makes an object for the Prometheus operator of the rules", () => {
    const [, command] = /```sh\n(\{ printf [\s\S]*?\}) \| kubectl/.exec(runbook)!;
    const object = execFileSync("sh", ["-c", command], { cwd: root, encoding: "utf8" });
    validateObject(parse(object));
    expect(parse(object).spec).toEqual({ groups });
  });
});
