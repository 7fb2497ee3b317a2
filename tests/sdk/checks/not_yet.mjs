// What has no server side yet: each says so with a clear error, at once.
import { Client, Sandbox, Snapshot, Volume } from "@deno/sandbox";
import { assert, rejection, row } from "./lib.mjs";

const DEPLOY = Object.entries({
  apps: ["create", "delete", "deploy", "get", "list", "logs", "update"],
  layers: ["apps", "create", "delete", "get", "list", "update"],
  revisions: ["buildLogs", "cancel", "delete", "get", "list", "progress", "timelines"],
  timelines: ["list"],
}).flatMap(([name, methods]) => methods.map((method) => `client.${name}.${method}`));

/** `promise` is refused with NOT_SUPPORTED and a sentence, however the client wraps it. */
async function refused(promise, name) {
  const error = await rejection(promise, name);
  assert.match(`${error.code} ${error.message}`, /NOT_SUPPORTED/);
  assert.match(error.message, /this server .*(yet|cannot)|sandboxes of this server/);
}

export default [
  row("not yet: exposed ports", async (sandbox) => {
    await refused(sandbox.exposeHttp({ port: 8000 }), "Error");
    await refused(Sandbox.create({ port: 8000 }), "Error");
    assert.equal(sandbox.url, undefined);
  }, ["Sandbox.exposeHttp", "Sandbox.url"]),
  row("not yet: SSH", async (sandbox) => {
    await refused(sandbox.exposeSsh(), "Error");
    await refused(Sandbox.create({ ssh: true }), "Error");
    assert.equal(sandbox.ssh, undefined);
  }, ["Sandbox.exposeSsh", "Sandbox.ssh"]),
  row("not yet: VS Code", async (sandbox) => {
    await rejection(sandbox.exposeVscode("/"), "TypeError");
    await rejection(sandbox.exposeVscode("/home/app"), "Error");
  }, ["Sandbox.exposeVscode", "VsCode.url", "VsCode.stdout", "VsCode.stderr", "VsCode.status", "VsCode.kill"]),
  row("not yet: secrets", async () => {
    await refused(Sandbox.create({ secrets: { KEY: { hosts: ["example.com"], value: "x" } } }), "ConnectionEstablishmentError");
  }, ["Sandbox.create"]),
  row("not yet: volumes", async () => {
    const { volumes } = new Client();
    await refused(Sandbox.create({ volumes: { "/data": "some-volume" } }), "ConnectionEstablishmentError");
    // Of what a root can be there are snapshots and forks, and so none of this name.
    await rejection(Sandbox.create({ root: "some-volume" }), "ConnectionEstablishmentError", "SNAPSHOT_NOT_FOUND");
    await refused(Volume.create({ slug: "some-volume", region: "loc", capacity: "1GB" }), "ApiError");
    await refused(Volume.get("some-volume"), "ApiError");
    for (const call of [() => volumes.list(), () => volumes.get("x"), () => volumes.delete("x"), () => volumes.snapshot("x", { slug: "y" }),
      () => volumes.create({ slug: "some-volume", region: "loc", capacity: "1GB" })]) await refused(call(), "ApiError");
  }, ["Volume.create", "Volume.get", "Volume.id", "Volume.slug", "Volume.region", "Volume.capacity", "Volume.estimatedAllocatedSize",
    "Volume.estimatedFlattenedSize", "Volume.isBootable", "Volume.baseSnapshot", "client.volumes.list", "client.volumes.get",
    "client.volumes.delete", "client.volumes.snapshot", "client.volumes.create"]),
  row("not yet: snapshots", async () => {
    const { snapshots } = new Client();
    await refused(Snapshot.create("some-volume", { slug: "x" }), "ApiError");
    await refused(Snapshot.get("x"), "ApiError");
    for (const call of [() => snapshots.list(), () => snapshots.get("x"), () => snapshots.delete("x")]) await refused(call(), "ApiError");
  }, ["Snapshot.create", "Snapshot.get", "Snapshot.id", "Snapshot.slug", "Snapshot.region", "Snapshot.allocatedSize",
    "Snapshot.flattenedSize", "Snapshot.isBootable", "Snapshot.volume", "client.snapshots.list", "client.snapshots.get",
    "client.snapshots.delete"]),
  row("of Deno Deploy: apps, layers, revisions, timelines, deploy", async (sandbox) => {
    const client = new Client();
    for (const member of DEPLOY) {
      const [, name, method] = member.split(".");
      // Some answer with a stream of items, some with an object of streams.
      await refused((async () => {
        const found = await client[name][method]("x", {});
        for await (const item of found) throw new Error(`there is ${item}`);
      })(), "ApiError");
    }
    await refused(sandbox.deploy("app", {}), "DeployError");
    await refused(sandbox.deno.deploy("app", {}), "DeployError");
  }, ["Sandbox.deploy", "deno.deploy", ...DEPLOY]),
];
