// Films the chat for the README: two browsers, and a server that is killed and started again. Everything in the film
// happens. Writes docs/killed.png, an animated PNG: https://www.w3.org/TR/png-3/
//
//     node scripts/film.mjs
/* global document */
import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { launch } from "../test/browser/browser.mjs";
import { chip, connected, reads, visit } from "../test/browser/chat.mjs";
import { build, Server } from "../test/browser/servers.mjs";

const SIZE = { width: 420, height: 400 };
const folder = fileURLToPath(new URL("../../docs/", import.meta.url));

const chat = build("chat");
const server = new Server(chat.binary, "-store", chat.binary + "-store", "-builds=false");
const browser = await launch();
const frames = [];
try {
  await server.start();
  const people = [];
  const there = { port: server.port, viewport: SIZE, deviceScaleFactor: 1, colorScheme: "light" };
  const ana = await visit(browser, people, "Ana", there);
  const ben = await visit(browser, people, "Ben", there);
  const stage = await (await browser.newContext({ viewport: { width: 2 * SIZE.width + 30, height: SIZE.height + 70 } })).newPage();
  await stage.setContent(`<body style="margin:0;background:#1c1f26;color:#e8e8e8;font:15px/40px ui-monospace,monospace">
    <p style="margin:10px 10px 10px;height:40px;padding:0 12px;background:#0d0f13;border-radius:6px;white-space:pre"></p>
    <img style="margin-left:10px;float:left;border-radius:6px"><img style="margin-left:10px;float:left;border-radius:6px"></body>`);

  let terminal = "$ ./chat";
  const shoot = async (seconds) => {
    const shots = await Promise.all([ana, ben].map(async ({ page }) => (await page.screenshot()).toString("base64")));
    await stage.evaluate(
      async ([line, images]) => {
        document.querySelector("p").textContent = line;
        const shown = [...document.querySelectorAll("img")].map((img, i) => {
          img.src = "data:image/png;base64," + images[i];
          return img.decode();
        });
        await Promise.all(shown);
      },
      [terminal, shots],
    );
    frames.push({ png: await stage.screenshot(), seconds });
  };
  const say = async (who, text, listener = [ana, ben]) => {
    await who.page.fill("#text", text);
    await who.page.click("#composer button");
    for (const { page } of listener) await reads(page, "#messages", new RegExp(text));
  };

  await say(ana, "Lunch at one?");
  await shoot(1.2);
  await say(ben, "Yes! Where?");
  await shoot(1.5);
  terminal = "$ kill -9 $(pidof chat)";
  await server.kill();
  for (const { page } of [ana, ben]) await chip(page, /\d s$/);
  await shoot(2);
  await say(ana, "At the harbour.", [ana]); // it waits in her page
  await shoot(2);
  terminal = "$ ./chat";
  await server.start();
  for (const { page } of [ana, ben]) await connected(page);
  await reads(ben.page, "#messages", /At the harbour/);
  await shoot(2);
  await say(ben, "See you there.");
  await shoot(3);
} finally {
  await browser.close();
  await server.stop();
  chat.remove();
}
writeFileSync(folder + "killed.png", animate(frames));

/** Joins PNG images of one size to an animated one, which plays for ever. */
function animate(images) {
  const chunks = images.map(({ png }) => chunksOf(png));
  const header = chunks[0].find(({ type }) => type === "IHDR").data;
  const parts = [Buffer.from("89504e470d0a1a0a", "hex"), chunk("IHDR", header), chunk("acTL", numbers(images.length, 0))];
  let sequence = 0;
  images.forEach(({ seconds }, i) => {
    const control = Buffer.alloc(26);
    control.writeUInt32BE(sequence++, 0);
    header.copy(control, 4, 0, 8); // width and height
    control.writeUInt16BE(Math.round(seconds * 100), 20);
    control.writeUInt16BE(100, 22);
    parts.push(chunk("fcTL", control));
    for (const { type, data } of chunks[i]) {
      if (type !== "IDAT") continue;
      parts.push(i === 0 ? chunk("IDAT", data) : chunk("fdAT", Buffer.concat([numbers(sequence++), data])));
    }
  });
  parts.push(chunk("IEND", Buffer.alloc(0)));
  return Buffer.concat(parts);
}

function chunksOf(png) {
  const chunks = [];
  for (let at = 8; at < png.length; ) {
    const length = png.readUInt32BE(at);
    chunks.push({ type: png.toString("latin1", at + 4, at + 8), data: png.subarray(at + 8, at + 8 + length) });
    at += 12 + length;
  }
  return chunks;
}

function chunk(type, data) {
  const body = Buffer.concat([Buffer.from(type, "latin1"), data]);
  return Buffer.concat([numbers(data.length), body, numbers(crc32(body))]);
}

function numbers(...values) {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, i) => bytes.writeUInt32BE(value, 4 * i));
  return bytes;
}

/** The checksum of PNG, bit by bit: Node has one only from version 22 on. */
function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  return (crc ^ 0xffffffff) >>> 0;
}
