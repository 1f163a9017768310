import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { Room } from "docs:Room.jsx";
import { Scores } from "docs:Scores.jsx";

function App() {
  const [topic, setTopic] = useState("room:a");
  const [shown, setShown] = useState(true);
  Object.assign(window, { setTopic, setShown });
  if (!shown) return null;
  return (
    <>
      <div id="first"><Room topic={topic} /></div>
      <div id="second"><Room topic={topic} /></div>
      <Scores />
    </>
  );
}

const root = document.body.appendChild(document.createElement("div"));
createRoot(root).render(<StrictMode><App /></StrictMode>);
