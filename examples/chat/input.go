package main

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/livetopic/livetopic/live"
)

// What comes from outside is checked here, whichever way it came. A page makes
// text of it and never HTML, so nothing needs to be escaped.

const (
	maxName = 40   // runes: fits a line of the list
	maxText = 2000 // runes: a screen
	maxKey  = 64   // bytes; the page uses 32
)

var (
	errNoName   = refusal("the name is empty")
	errLongName = refusal(fmt.Sprintf("the name is longer than %d characters", maxName))
	errNoText   = refusal("the text is empty")
	errLongText = refusal(fmt.Sprintf("the text is longer than %d characters", maxText))
	errLongKey  = refusal(fmt.Sprintf("the key is longer than %d bytes", maxKey))
	errRoomName = refusal("a room's name is 1 to 32 of a-z, 0-9 and -, and does not begin with -")
	errNoTopic  = refusal("there is no such topic here")
	errTaken    = refusal("all rooms are taken; come to one that exists")
	errUnclear  = refusal("the request is not understood")
)

// refusal is an error whose text a page is told, unlike that of any other.
func refusal(text string) *live.ClientError {
	return &live.ClientError{Code: "refused", Message: text}
}

var roomName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// clean makes of a message what may be published, or says why it may not.
func (m *message) clean() (err error) {
	if m.Text, err = cleanText(m.Text); err != nil {
		return err
	}
	if len(m.Key) > maxKey {
		return errLongKey
	}
	m.Name, err = cleanName(m.Name)
	return err
}

// cleanName makes one line without a control character of a name.
func cleanName(s string) (string, error) {
	s = strings.Join(strings.Fields(dropControls(s, "")), " ")
	switch {
	case !visible(s):
		return "", errNoName
	case utf8.RuneCountInString(s) > maxName:
		return "", errLongName
	}
	return s, nil
}

// cleanText leaves a text its lines.
func cleanText(s string) (string, error) {
	s = strings.TrimSpace(dropControls(strings.ReplaceAll(s, "\r\n", "\n"), "\n\t"))
	switch {
	case !visible(s):
		return "", errNoText
	case utf8.RuneCountInString(s) > maxText:
		return "", errLongText
	}
	return s, nil
}

// dropControls removes what is invisible and could make a text look like
// another: control characters, but for those to keep, and changes of direction.
// White space stays, as a space if it is a control character.
func dropControls(s, keep string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case strings.ContainsRune(keep, r):
			return r
		case unicode.IsControl(r) && unicode.IsSpace(r):
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

// visible reports whether there is anything to see.
func visible(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return unicode.IsGraphic(r) && !unicode.IsSpace(r) })
}
