// Snapshots: a sandbox that is saved, and gone on with when it has ended and the server was started anew. Prints TAP;
// the word `take` runs what comes before the server's end, `restore` what comes after it. The variables that `hutch
// serve` prints must be set; HUTCH names the program.
import process from "node:process";
import { Sandbox } from "@deno/sandbox";
import { assert } from "./checks/lib.mjs";
import { check, finish, hutch, until } from "./checks/tap.mjs";


const count = async (sandbox) => Number((await sandbox.fs.readTextFile("/home/app/count").catch(() => "0")).trim());
const counter = `n=0; while :; do n=$((n + 1)); echo $n >/tmp/new; mv /tmp/new /home/app/count; sleep 0.05; done`;
const identity = `cat /etc/machine-id /proc/sys/kernel/random/boot_id; hostname; head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n'`;
const paths = async () => Object.fromEntries((await (await fetch(`${process.env.DENO_DEPLOY_ENDPOINT}/api/v2/sandboxes`, {
  headers: { Authorization: `Bearer ${process.env.DENO_DEPLOY_TOKEN}` },
})).json()).map(({ id, path }) => [id, path]));

async function take() {
  await check("hutch template build saves a machine, which the first sandbox of its size is a fork of", async () => {
    assert.equal((await hutch("template", "build", "--memory-mib", "896", "--network")).trim(), "built");
    assert.equal((await hutch("template", "build", "--memory-mib", "896", "--network")).trim(), "it is there already");
    const sandbox = await Sandbox.create({ memory: "896MiB", allowNet: ["example.com"], timeout: "5m" });
    assert.equal((await paths())[sandbox.id], "fork");
    await sandbox.kill();
    await assert.rejects(hutch("template", "build", "--memory-mib", "5"), (error) => error.code === 125 && /memory_mb is 5/.test(error.stderr));
  });
  await check("hutch snapshot saves a sandbox, which goes on", async () => {
    const sandbox = await Sandbox.create({ memory: "768MiB", allowNet: ["example.com"], timeout: "20m" });
    await sandbox.fs.writeTextFile("/home/app/kept", "in the snapshot");
    await sandbox.sh`sh -c ${`(${counter}) >/dev/null 2>&1 &`}`;
    await until(async () => await count(sandbox) >= 3);
    const id = (await hutch("snapshot", "--name", "ready", sandbox.id)).trim();
    assert.match(id, /^snp_loc_[0-9a-hjkmnp-z]{20}$/);
    const before = await count(sandbox);
    await until(async () => await count(sandbox) > before);
    await sandbox.fs.writeTextFile("/home/app/kept", "after the snapshot");
    await assert.rejects(hutch("snapshot", "--name", "ready", sandbox.id), (error) => error.code === 125 && error.stderr.includes(id));
    await sandbox.kill();
    await assert.rejects(hutch("snapshot", sandbox.id), (error) => error.code === 125 && /terminated/.test(error.stderr));
  });
  await check("hutch restore makes several of one moment, each with its own identity", async () => {
    const ids = (await hutch("restore", "-n", "2", "--timeout", "10m", "ready")).trim().split("\n");
    const made = await Promise.all(ids.map((id) => Sandbox.connect({ id })));
    for (const sandbox of made) assert.equal(await sandbox.fs.readTextFile("/home/app/kept"), "in the snapshot");
    const [one, other] = (await Promise.all(made.map((sandbox) => sandbox.sh`sh -c ${identity}`.text()))).map((text) => text.split("\n"));
    for (let line = 0; line < 4; line++) assert.notEqual(one[line], other[line], `line ${line}`);
    const path = await paths();
    for (const id of ids) assert.equal(path[id], "restore");
    await Promise.all(made.map((sandbox) => sandbox.kill()));
  });
}

async function restore() {
  const [{ id, name, memory_mb, allow_net }, ...others] = JSON.parse(await hutch("snapshots", "list", "--json"));
  await check("it is there when the server was started anew", async () => {
    assert.deepEqual([name, memory_mb, allow_net, others], ["ready", 768, ["example.com"], []]);
    assert.match(await hutch("snapshots", "list"), new RegExp(`${id} +ready +2.* 768  sbx_`));
  });
  await check("Sandbox.create goes on with it, by its id and by its name, with its programs", async () => {
    for (const root of [id, "ready"]) {
      const sandbox = await Sandbox.create({ root, timeout: "5m" });
      assert.equal(await sandbox.fs.readTextFile("/home/app/kept"), "in the snapshot");
      const before = await count(sandbox);
      assert.ok(before >= 3);
      await until(async () => await count(sandbox) > before);
      const clock = Number(await sandbox.sh`date +%s%3N`.text());
      assert.ok(Math.abs(clock - Date.now()) < 60_000, `${clock} ${Date.now()}`);
      assert.equal((await hutch("policy", "show", sandbox.id)).trim(), "example.com");
      await sandbox.kill();
    }
  });
  await check("a template of before is used, once it has been read", async () => {
    const sandbox = await Sandbox.create({ memory: "896MiB", allowNet: [], timeout: "5m" });
    assert.equal((await paths())[sandbox.id], "fork");
    await sandbox.kill();
  });
  await check("what is deleted is gone; what began with it goes on", async () => {
    const sandbox = await Sandbox.create({ root: "ready", timeout: "5m" });
    await hutch("snapshots", "delete", "ready");
    assert.equal(await sandbox.fs.readTextFile("/home/app/kept"), "in the snapshot");
    await assert.rejects(Sandbox.create({ root: "ready", timeout: "5m" }), (error) => error.code === "SNAPSHOT_NOT_FOUND");
    await assert.rejects(hutch("restore", "ready"), (error) => error.code === 125 && /no snapshot ready/.test(error.stderr));
    await assert.rejects(hutch("restore", "../x"), (error) => error.code === 125 && /no id of a snapshot/.test(error.stderr));
    assert.deepEqual(JSON.parse(await hutch("snapshots", "list", "--json")), []);
    await sandbox.kill();
  });
}

await { take, restore }[process.argv[2]]();
finish();
