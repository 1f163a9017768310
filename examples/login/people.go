package main

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"errors"
	"fmt"
)

const (
	// iterations make trying out the passwords of a stolen file slow: a quarter of a second
	// each, which a person who signs in does not mind.
	iterations = 600_000

	saltSize, hashSize = 16, 32 // bytes

	maxName, maxPassword = 64, 256 // bytes

	demoPassword = "correct horse"
)

// People are those who may sign in.
type People struct {
	db         *sql.DB
	iterations int
	nobody     secret // is checked for names that are unknown, so that the time does not tell
}

// secret is what is kept of a password.
type secret struct {
	salt, hash []byte
	iterations int
}

// OpenPeople returns the people in a database, which gets two if it is new.
func OpenPeople(db *sql.DB, rounds int) (*People, error) {
	if rounds == 0 {
		rounds = iterations
	}
	p := &People{db: db, iterations: rounds}
	_, err := db.Exec(`CREATE TABLE IF NOT EXISTS people (
		name TEXT PRIMARY KEY, salt BLOB NOT NULL, hash BLOB NOT NULL, iterations INTEGER NOT NULL)`)
	if err != nil {
		return nil, err
	}
	var count int
	if err := db.QueryRow("SELECT count(*) FROM people").Scan(&count); err != nil {
		return nil, err
	}
	p.nobody = secret{make([]byte, saltSize), make([]byte, hashSize), rounds}
	rand.Read(p.nobody.hash) // of no password that anyone knows; it never fails
	if count > 0 {
		return p, nil
	}
	for _, name := range []string{"ana", "bo"} {
		if err := p.Add(name, demoPassword); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Add adds someone.
func (p *People) Add(name, password string) error {
	if name == "" || len(name) > maxName || len(password) > maxPassword {
		return fmt.Errorf("login: a name has 1 to %d bytes, and a password %d at most", maxName, maxPassword)
	}
	s, err := p.secretOf(password)
	if err != nil {
		return err
	}
	_, err = p.db.Exec("INSERT INTO people VALUES ($1, $2, $3, $4)", name, s.salt, s.hash, s.iterations)
	return err
}

// Check reports whether it is someone's password.
func (p *People) Check(ctx context.Context, name, password string) (bool, error) {
	if len(name) > maxName || len(password) > maxPassword {
		return false, nil
	}
	s := p.nobody
	err := p.db.QueryRowContext(ctx, "SELECT salt, hash, iterations FROM people WHERE name = $1", name).
		Scan(&s.salt, &s.hash, &s.iterations)
	unknown := errors.Is(err, sql.ErrNoRows)
	if err != nil && !unknown {
		return false, err
	}
	hash, err := pbkdf2.Key(sha256.New, password, s.salt, s.iterations, hashSize)
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(hash, s.hash) == 1 && !unknown, nil
}

func (p *People) secretOf(password string) (secret, error) {
	salt := make([]byte, saltSize)
	rand.Read(salt) // never fails
	hash, err := pbkdf2.Key(sha256.New, password, salt, p.iterations, hashSize)
	return secret{salt, hash, p.iterations}, err
}
